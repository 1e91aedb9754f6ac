"""A whole decode step of the published shapes out of the CUDA kernels: PyTorch tensors, ctypes, one CUDA graph.

    python -m external_ops.harness.decode_step [--forms int4 bfloat16] [--context 1150]
    python -m external_ops.harness.decode_step --emulate

First a model of two layers is checked: logits of some greedy tokens within a bound of plain PyTorch in float64, and out
of a graph the same tokens. Then 32 layers with random weights are timed, captured and not: tokens per second, and the
share of a device copy's bandwidth at which weights, keys and values are read. With --emulate the check alone runs, on
the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import low_bit, tiles
from .build import build, cuda_sources
from .ops import Kernels, key_values, strides, visibility

DTYPE = torch.bfloat16
FORMS = ("int4", "int8 groups", "bfloat16", "row-major bfloat16")
LARGEST_ERROR = 0.05  # of the largest logit; bfloat16 has eight bits


@dataclass(frozen=True)
class Sizes:
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    layers: int
    capacity: int  # positions of the cache

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


PUBLISHED = Sizes(4096, 32, 11008, 151936, 32, 0)


class Linear:
    """A product with random weights in one form; ``matrix`` is float64 [in, out], where it is wanted."""

    def __init__(self, form: str, inputs: int, outputs: int, device: str, seed: int, exact: bool):
        self.inputs, self.outputs, self.matrix = inputs, outputs, None
        self.operator, self.arguments = self._exact(form, device, seed) if exact else self._random(form, device)
        self.bytes = sum(part.nbytes for part in self.arguments if isinstance(part, torch.Tensor))

    def _exact(self, form: str, device: str, seed: int) -> tuple[str, list[object]]:
        """About unit gain, so that the numbers stay in range from layer to layer."""
        if form.endswith("bfloat16"):
            generator = torch.Generator().manual_seed(seed)
            weight = (torch.randn(self.inputs, self.outputs, generator=generator) * self.inputs**-0.5).to(DTYPE)
            self.matrix = weight.double().to(device)
            if form.startswith("row-major"):
                return "linear", [weight.to(device)]
            packed = tiles.pack_w16(weight.view(torch.int16).numpy().view("u2"))
            return "linear_w16", [DTYPE, torch.from_numpy(packed.view("i2")).to(device)]
        made = low_bit.make_weight(form, self.inputs, self.outputs, device, seed)
        weight, scales, *rest = made.arguments
        gain = 2.0 ** round(-torch.log2(made.matrix.std() * self.inputs**0.5).item())
        self.matrix = made.matrix * gain  # a power of two changes no bit of the scales but their exponent
        return f"linear_{made.operator}", [weight, scales * gain, *rest]

    def _random(self, form: str, device: str) -> tuple[str, list[object]]:
        if form == "row-major bfloat16":
            return "linear", [torch.empty(self.inputs, self.outputs, dtype=DTYPE, device=device).normal_(std=0.01)]
        count, padded = -(-self.outputs // 16), -(-self.inputs // 128) * 128
        if form == "bfloat16":
            weight = torch.empty(count, padded // 2, 16, 2, dtype=DTYPE, device=device).normal_(std=0.01)
            return "linear_w16", [DTYPE, weight.view(torch.int16)]
        groups = padded // 128
        per_word = 8 if form == "int4" else 4
        weight = torch.randint(1, 256, (count, padded // per_word, 16, 4), dtype=torch.uint8, device=device)
        kind = torch.half if form == "int4" else torch.float32
        scales = torch.full((count, groups, 16), 0.002, dtype=kind, device=device)
        return ("linear_w4", [weight, scales]) if form == "int4" else ("linear_w8", [weight, scales, groups])

    def __call__(self, kernels: Kernels, x: torch.Tensor, out: torch.Tensor) -> None:
        kernels(
            self.operator, DTYPE, x, self.inputs, *self.arguments, None, out, len(x), self.inputs, self.outputs
        )  # fmt: skip


class Layer:
    def __init__(self, form: str, sizes: Sizes, device: str, seed: int, exact: bool):
        def linear(inputs: int, outputs: int, number: int) -> Linear:
            return Linear(form, inputs, outputs, device, 10 * seed + number, exact)

        hidden, ffn = sizes.hidden, sizes.ffn
        self.norms = [torch.ones(hidden, dtype=DTYPE, device=device) for _ in range(2)]
        self.qkv, self.attention_out = linear(hidden, 3 * hidden, 1), linear(hidden, hidden, 2)
        self.gate, self.up, self.out = linear(hidden, ffn, 3), linear(hidden, ffn, 4), linear(ffn, hidden, 5)
        self.bias = torch.empty(3 * hidden, dtype=DTYPE, device=device).normal_(std=0.1)
        shape = (1, sizes.heads, sizes.capacity, sizes.head_dim)
        self.keys, self.values = (torch.empty(shape, dtype=DTYPE, device=device).normal_(std=0.3) for _ in range(2))

    def products(self) -> list[Linear]:
        return [self.qkv, self.attention_out, self.gate, self.up, self.out]


class Decoder:
    """Token, position and length lie on the device and are advanced by :meth:`step`: nothing waits for the host."""

    def __init__(self, kernels: Kernels, form: str, sizes: Sizes, device: str, exact: bool):
        self.kernels, self.sizes = kernels, sizes
        torch.manual_seed(5)
        self.embeddings = torch.empty(sizes.vocabulary, sizes.hidden, dtype=DTYPE, device=device).normal_()
        self.layers = [Layer(form, sizes, device, layer + 1, exact) for layer in range(sizes.layers)]
        head_form = "int8 groups" if form == "int4" else form
        self.head = Linear(head_form, sizes.hidden, sizes.vocabulary, device, 9, exact)
        self.last_norm = torch.ones(sizes.hidden, dtype=DTYPE, device=device)
        exponents = torch.arange(0, sizes.head_dim, 2, device=device).double() / sizes.head_dim
        angles = torch.outer(torch.arange(sizes.capacity, device=device).double(), 10000.0**-exponents)
        self.cos = torch.cat([angles.cos()] * 2, -1).float()
        self.sin = torch.cat([-angles.sin(), angles.sin()], -1).float()

        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=DTYPE, device=device)

        self.x, self.normalized, self.attended = (empty(1, sizes.hidden) for _ in range(3))
        self.residuals = [empty(1, sizes.hidden) for _ in range(2)]
        self.packed, self.query = empty(1, 3 * sizes.hidden), empty(1, sizes.heads, 1, sizes.head_dim)
        self.gated, self.raised, self.activated = (empty(1, sizes.ffn) for _ in range(3))
        self.logits = empty(1, sizes.vocabulary)
        needed = kernels.query("attention_decode_workspace", 1, sizes.heads, 1, sizes.head_dim, sizes.capacity)
        self.workspace = torch.empty(max(needed, 1), dtype=torch.uint8, device=device)
        self.token = torch.zeros(1, dtype=torch.long, device=device)
        self.position, self.length = (torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2))

    def bytes(self, context: int) -> int:
        """What a step reads."""
        weights = sum(product.bytes for layer in self.layers for product in layer.products()) + self.head.bytes
        return weights + self.sizes.layers * 2 * self.sizes.hidden * 2 * context

    def start(self, token: int, context: int) -> None:
        self.token.fill_(token)
        self.position.fill_(context)
        self.length.fill_(context + 1)

    def norm(self, residual: torch.Tensor | None, weight: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """The norm of x + residual, which becomes the next residual."""
        sums = None if residual is None else total
        self.kernels(
            "rms_norm", DTYPE, self.x, residual, weight, 1e-6, self.normalized, sums, None, 1, self.sizes.hidden
        )  # fmt: skip
        return total.copy_(self.x) if residual is None else total

    def step(self) -> None:
        kernels, s = self.kernels, self.sizes
        torch.index_select(self.embeddings, 0, self.token, out=self.x)
        residual = None
        for layer in self.layers:
            residual = self.norm(residual, layer.norms[0], self.residuals[0])
            layer.qkv(kernels, self.normalized, self.packed)
            cache = key_values(layer.keys, layer.values)
            kernels(
                "rotary_qkv", DTYPE, self.packed, layer.bias, self.cos, self.sin, s.capacity, None, self.position,
                None, self.query, strides(self.query), cache, self.position, None, 1, 1, s.heads, s.head_dim,
            )  # fmt: skip
            kernels(
                "attention_decode", DTYPE, self.query, strides(self.query), cache,
                visibility(self.length, self.position), s.head_dim**-0.5, self.attended, self.workspace, s.capacity, 1,
                s.heads, 1, s.head_dim,
            )  # fmt: skip
            layer.attention_out(kernels, self.attended, self.x)
            residual = self.norm(residual, layer.norms[1], self.residuals[1])
            self.feed_forward(layer)
            layer.out(kernels, self.activated, self.x)
        self.norm(residual, self.last_norm, self.residuals[0])
        self.head(kernels, self.normalized, self.logits)
        torch.argmax(self.logits, -1, out=self.token)
        self.position.add_(1)
        self.length.add_(1)

    def feed_forward(self, layer: Layer) -> None:
        s, operator = self.sizes, layer.gate.operator
        if operator == "linear":
            layer.gate(self.kernels, self.normalized, self.gated)
            layer.up(self.kernels, self.normalized, self.raised)
            self.kernels("swiglu", DTYPE, self.gated, self.raised, s.ffn, self.activated, 1, s.ffn)
            return
        name = operator.replace("linear_", "")
        weights = low_bit.gated_arguments(name, layer.gate.arguments, layer.up.arguments)
        self.kernels(
            f"swiglu_{name}", DTYPE, self.normalized, s.hidden, *weights, self.activated, 1, s.hidden, s.ffn
        )  # fmt: skip

    def captured(self) -> Callable[[], object]:
        """A replay of the step as a CUDA graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.start(3, 4)
            self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def exact_logits(
    model: Decoder, tokens: list[int], context: int, caches: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[torch.Tensor]:
    """The same in float64, fed these tokens."""
    s = model.sizes
    norm = lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)  # noqa: E731
    stored = [(keys.double().clone(), values.double().clone()) for keys, values in caches]
    results = []
    for step, token in enumerate(tokens):
        position = context + step
        cos, sin = model.cos[position].double(), model.sin[position].double()
        x = model.embeddings[token].double()[None]
        for layer, (keys, values) in zip(model.layers, stored):
            query, key, value = (norm(x) @ layer.qkv.matrix + layer.bias.double()).view(3, s.heads, s.head_dim)
            query, key = (part * cos + part.roll(s.head_dim // 2, -1) * sin for part in (query, key))
            keys[0, :, position], values[0, :, position] = key, value
            seen = slice(None, position + 1)
            weights = torch.softmax(query[:, None] @ keys[0, :, seen].transpose(1, 2) * s.head_dim**-0.5, -1)
            x = x + (weights @ values[0, :, seen]).reshape(1, -1) @ layer.attention_out.matrix
            fed = norm(x)
            x = x + (F.silu(fed @ layer.gate.matrix) * (fed @ layer.up.matrix)) @ layer.out.matrix
        results.append(norm(x) @ model.head.matrix)
    return results


def check(kernels: Kernels, form: str, device: str) -> bool:
    """Prints what came of it."""
    steps, context = (12, 20) if device == "cuda" else (3, 9)
    model = Decoder(kernels, form, Sizes(256, 4, 384, 512, 2, 32), device, exact=True)
    caches = [(layer.keys.clone(), layer.values.clone()) for layer in model.layers]
    tokens, logits = [3], []
    model.start(3, context)
    for _ in range(steps):
        model.step()
        logits.append(model.logits.double().clone())
        tokens.append(int(model.token))
    exact = exact_logits(model, tokens[:-1], context, caches)
    error = max(((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in zip(logits, exact))
    good = error < LARGEST_ERROR
    said = f"{form}: largest error of the logits {error:.4f} of the largest logit"
    if device == "cuda":
        replay, again = model.captured(), []
        for layer, (keys, values) in zip(model.layers, caches):
            layer.keys.copy_(keys)
            layer.values.copy_(values)
        model.start(3, context)
        for _ in range(steps):
            replay()
            again.append(int(model.token))
        good = good and again == tokens[1:]
        said += f", tokens of the graph {'the same' if again == tokens[1:] else 'DIFFERENT'}"
    print(said + ("" if good else ": WRONG"), flush=True)
    return good


def measure(kernels: Kernels, form: str, layers: int, context: int, steps: int, copy: float) -> str:
    """A row of the table."""
    capacity = -(-(context + steps + 8) // 256) * 256
    sizes = Sizes(PUBLISHED.hidden, PUBLISHED.heads, PUBLISHED.ffn, PUBLISHED.vocabulary, layers, capacity)
    model = Decoder(kernels, form, sizes, "cuda", exact=False)
    replay = model.captured()

    def seconds(run: Callable[[], object]) -> float:
        model.start(3, context)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / steps

    seconds(replay)
    captured, eager = min(seconds(replay) for _ in range(3)), seconds(model.step)
    rate = model.bytes(context) / captured
    return (
        f"| {form} | {context} | {model.bytes(context) / 1e9:.2f} | {captured * 1e3:.2f} | {1 / captured:.0f} "
        f"| {rate / copy:.0%} | {eager * 1e3:.2f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--layers", type=int, default=PUBLISHED.layers)
    parser.add_argument("--context", type=int, nargs="+", default=[1150, 8192], help="positions in the cache")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--emulate", action="store_true", help="the check alone, on the CPU")
    options = parser.parse_args()
    if options.emulate:
        from .emulate.build import build as build_emulated

        kernels = Kernels([build_emulated(source.stem) for source in cuda_sources()], lambda: None)
        failed = [form for form in options.forms if not check(kernels, form, "cpu")]
        return 1 if failed else 0
    from .bench import copy_bandwidth

    kernels = Kernels([build(None)], lambda: torch.cuda.current_stream().cuda_stream)
    failed = [form for form in options.forms if not check(kernels, form, "cuda")]
    copy = copy_bandwidth()
    print(f"\n{torch.cuda.get_device_name()}, {options.layers} layers; a device copy reaches {copy / 1e9:.0f} GB/s.\n")
    print("| weights | context | GB a token | graph ms | tokens/s | of the copy | launched one by one ms |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for form in options.forms:
        for context in options.context:
            print(measure(kernels, form, options.layers, context, options.steps, copy), flush=True)
            torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
