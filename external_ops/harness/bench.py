"""Achieved bandwidth of every operator at the model's sizes, beside a device copy and PyTorch's own operator.

A measurement captures launches over several copies of the arrays into a CUDA graph, so that neither the launch from the
host nor what stays in the L2 cache counts, and takes the fastest of several replays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import references as ref
from .low_bit import gated_arguments, make_weight
from .ops import Kernels, key_values, strides, visibility

WORKING_SET = 512 << 20  # bytes that one graph walks over; the L2 cache of an H200 has 50 MB
REPLAYS = 20
HIDDEN, FFN, HEADS, HEAD_DIM, VISUAL = 4096, 11008, 32, 128, 1664
VOCABULARY = 151936
DTYPE = torch.bfloat16  # what users run

Run = Callable[[], object]


@dataclass
class Subject:
    """make() gives a run of our kernel and one of PyTorch's (``beside``) on new arrays; bytes: what ours must move."""

    operator: str
    detail: str
    bytes: int
    beside: str
    make: Callable[[], tuple[Run, Run]]


def time_of(runs: Sequence[Run]) -> float:
    """Seconds of one run, in a graph of all of them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for run in runs:
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    fastest = math.inf
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        fastest = min(fastest, start.elapsed_time(end))
    return fastest / 1e3 / len(runs)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a device-to-device copy."""
    source = torch.empty(WORKING_SET, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * WORKING_SET / time_of([lambda: target.copy_(source)] * 4)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(DTYPE)


def rows_subjects(kernels: Kernels) -> Iterator[Subject]:
    for rows, width in ((1, HIDDEN), (8192, HIDDEN)):
        weight = normal(width)

        def rms(rows=rows, width=width, weight=weight) -> tuple[Run, Run]:
            x, residual = normal(rows, width), normal(rows, width)
            out, total = torch.empty_like(x), torch.empty_like(x)
            arguments = (x.dtype, x, residual, weight, ref.EPSILON, out, total, None, rows, width)
            return lambda: kernels("rms_norm", *arguments), lambda: ref.rms_norm(x + residual, weight)

        yield Subject("rms_norm", f"{rows} x {width}, residual", 8 * rows * width, "add, F.rms_norm", rms)
    for rows, width in ((1024, VISUAL), (8192, VISUAL)):
        weight, bias = normal(width), normal(width)

        def layer(rows=rows, width=width, weight=weight, bias=bias) -> tuple[Run, Run]:
            x, residual = normal(rows, width), normal(rows, width)
            out, total = torch.empty_like(x), torch.empty_like(x)
            arguments = (x.dtype, x, residual, weight, bias, ref.EPSILON, out, total, None, None, rows, width)
            return lambda: kernels("layer_norm", *arguments), lambda: ref.layer_norm(x + residual, weight, bias)

        yield Subject("layer_norm", f"{rows} x {width}, residual", 8 * rows * width, "add, F.layer_norm", layer)
    for rows in (1, 4096):

        def swiglu(rows=rows) -> tuple[Run, Run]:
            packed, out = normal(rows, 2 * FFN), torch.empty(rows, FFN, dtype=DTYPE, device="cuda")
            gate, up = packed[:, :FFN], packed[:, FFN:]
            arguments = (gate.dtype, gate, up, 2 * FFN, out, rows, FFN)
            return lambda: kernels("swiglu", *arguments), lambda: ref.swiglu(gate, up)

        yield Subject("swiglu", f"{rows} x {FFN}, packed", 6 * rows * FFN, "silu, multiply", swiglu)
    rows, width = 4096, 8192
    bias = normal(width)

    def gelu() -> tuple[Run, Run]:
        x = normal(rows, width)
        arguments = (x.dtype, x, bias, torch.empty_like(x), rows, width)
        return lambda: kernels("gelu_bias", *arguments), lambda: ref.gelu_bias(x, bias)

    yield Subject("gelu_bias", f"{rows} x {width}", 4 * rows * width, "add, F.gelu", gelu)


def attention_subjects(kernels: Kernels) -> Iterator[Subject]:
    tables = [torch.randn(8192, HEAD_DIM, device="cuda") for _ in range(2)]
    for length in (1, 2048):

        def rotary(length=length) -> tuple[Run, Run]:
            qkv, bias = normal(1, length, 3, HEADS, HEAD_DIM), normal(3, HEADS, HEAD_DIM)
            query, keys, values = (normal(1, HEADS, length, HEAD_DIM) for _ in range(3))
            positions = torch.arange(length, dtype=torch.int32, device="cuda")
            kv = key_values(keys, values)
            arguments = (
                qkv.dtype, qkv, bias, *tables, 8192, None, positions, None, query, strides(query), kv, None, None, 1,
                length, HEADS, HEAD_DIM,
            )  # fmt: skip
            cos, sin = (table[None, :length] for table in tables)
            # The closure keeps the caches alive.
            return lambda keep=(keys, values): kernels("rotary_qkv", *arguments), lambda: ref.rotate(
                qkv, bias, cos, sin, None
            )

        moved = length * HEADS * HEAD_DIM * 12
        yield Subject("rotary_qkv", f"{length} tokens", moved, "the same in several steps", rotary)
    for slots in (1150, 8192):

        def decode(slots=slots) -> tuple[Run, Run]:
            keys, values = normal(1, HEADS, slots, HEAD_DIM), normal(1, HEADS, slots, HEAD_DIM)
            query = normal(1, HEADS, 1, HEAD_DIM)
            lengths = torch.full((1,), slots, dtype=torch.int32, device="cuda")
            sizes = (1, HEADS, 1, HEAD_DIM)
            workspace = torch.empty(
                max(kernels.query("attention_decode_workspace", *sizes, slots), 1), dtype=torch.uint8, device="cuda"
            )
            kv, seen, out = key_values(keys, values), visibility(lengths), torch.empty_like(query)
            arguments = (
                query.dtype, query, strides(query), kv, seen, HEAD_DIM**-0.5, out, workspace, slots, *sizes,
            )  # fmt: skip
            return lambda keep=lengths: kernels("attention_decode", *arguments), lambda: F.scaled_dot_product_attention(
                query, keys, values
            )

        yield Subject("attention_decode", f"1 of {slots}", slots * HEADS * HEAD_DIM * 4, "sdpa", decode)


def linear_subjects(kernels: Kernels) -> Iterator[Subject]:
    forms = {"w16": "bfloat16", "w8": "int8", "w4": "int4"}
    for operator, form in forms.items():
        layers = [(HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * FFN), (FFN, HIDDEN)]
        if operator != "w4":
            layers.append((HIDDEN, VOCABULARY))
        for in_features, out_features in layers:
            original = make_weight(form, in_features, out_features, "cuda")
            moved = original.bytes()
            original.matrix = original.matrix.to(DTYPE).t().contiguous()
            for rows in (1, 8, 32, 64):

                def product(rows=rows, original=original) -> tuple[Run, Run]:
                    outputs, inputs = original.matrix.shape
                    arguments = [
                        part.clone() if isinstance(part, torch.Tensor) else part for part in original.arguments
                    ]
                    matrix, x, bias = original.matrix.clone(), normal(rows, inputs), normal(outputs)
                    out = torch.empty(rows, outputs, dtype=x.dtype, device="cuda")
                    all_arguments = (x.dtype, x, inputs, *arguments, bias, out, rows, inputs, outputs)
                    name = f"linear_{original.operator}"
                    return lambda: kernels(name, *all_arguments), lambda: F.linear(x, matrix, bias)

                detail = f"{rows} x {in_features} x {out_features}"
                yield Subject(f"linear_{operator}", detail, moved, "F.linear", product)

        def dequantize(operator=operator, original=original) -> tuple[Run, Run]:
            outputs, inputs = original.matrix.shape
            out = torch.empty(inputs, outputs, dtype=DTYPE, device="cuda")
            arguments = (out.dtype, *original.arguments, out, inputs, outputs)
            return lambda: kernels(f"dequantize_{operator}", *arguments), lambda: out.copy_(original.matrix.t())

        yield Subject(
            f"dequantize_{operator}", f"{in_features} x {out_features}", moved + 2 * in_features * out_features,
            "transpose", dequantize,
        )  # fmt: skip


def fused_subjects(kernels: Kernels) -> Iterator[Subject]:
    """Gate and up in one, and weights [in, out] as Paddle keeps them, beside cuBLAS on the same arrays."""
    for operator, form in {"w16": "bfloat16", "w8": "int8", "w4": "int4"}.items():
        weight = make_weight(form, HIDDEN, FFN, "cuda")
        moved = 2 * weight.bytes()
        weight.matrix = weight.matrix.to(DTYPE).t().contiguous()

        def gated(operator=operator, weight=weight) -> tuple[Run, Run]:
            gate, up = weight.copy_of_arguments(), weight.copy_of_arguments()
            x, out = normal(1, HIDDEN), torch.empty(1, FFN, dtype=DTYPE, device="cuda")
            matrices = [weight.matrix.clone() for _ in range(2)]
            arguments = (DTYPE, x, HIDDEN, *gated_arguments(operator, gate, up), out, 1, HIDDEN, FFN)
            return lambda: kernels(f"swiglu_{operator}", *arguments), lambda: ref.swiglu(
                *(F.linear(x, matrix) for matrix in matrices)
            )

        yield Subject(f"swiglu_{operator}", f"1 x {HIDDEN} x 2 * {FFN}", moved, "2 F.linear, swiglu", gated)
    for in_features, out_features in [(HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (FFN, HIDDEN), (HIDDEN, VOCABULARY)]:
        for rows in (1, 8):

            def plain(rows=rows, inputs=in_features, outputs=out_features) -> tuple[Run, Run]:
                x, weight = normal(rows, inputs), normal(inputs, outputs)
                out = torch.empty(rows, outputs, dtype=DTYPE, device="cuda")
                arguments = (DTYPE, x, inputs, weight, None, out, rows, inputs, outputs)
                return lambda: kernels("linear", *arguments), lambda: torch.matmul(x, weight, out=out)

            detail = f"{rows} x {in_features} x {out_features}"
            yield Subject("linear", detail, 2 * in_features * out_features, "matmul on [in, out]", plain)


def measure(kernels: Kernels, operators: Sequence[str]) -> str:
    """The table, in Markdown."""
    copy = copy_bandwidth()
    name, version = torch.cuda.get_device_name(), torch.__version__
    lines = [
        f"{name}, {str(DTYPE)[6:]}, PyTorch {version}; a device copy reaches {copy / 1e9:.0f} GB/s.",
        "",
        "| operator | size | us | GB/s | of the copy | PyTorch's | us | times faster |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for source in (rows_subjects, attention_subjects, linear_subjects, fused_subjects):
        for subject in source(kernels):
            if re.sub("^dequantize_", "linear_", subject.operator) not in operators:
                continue
            copies = max(2, min(64, WORKING_SET // subject.bytes))
            ours, beside = zip(*(subject.make() for _ in range(copies)))
            seconds, seconds_beside = time_of(ours), time_of(beside)
            rate = subject.bytes / seconds
            lines.append(
                f"| {subject.operator} | {subject.detail} | {seconds * 1e6:.1f} | {rate / 1e9:.0f} | {rate / copy:.0%} "
                f"| {subject.beside} | {seconds_beside * 1e6:.1f} | {seconds_beside / seconds:.2f} |"
            )
            print(lines[-1], flush=True)
            del ours, beside
            torch.cuda.empty_cache()
    return "\n".join(lines)
