"""What bench_ops.py times: each CPU kernel at the published model's shapes, with its arrays and the work it must do."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .shapes import PATCHES, PROMPT, Shapes

# A model's weights and cache come from memory for every layer; so do these, in turns, as many as no cache can hold.
COLD_BYTES, MOST_COPIES = 2**29, 64
LONG = 2048  # positions

Run = Callable[[], object]


class Kernel(NamedTuple):
    """A kernel at one shape.

    Attributes:
        moved: bytes that must be read and written, from ``source``: ``"memory"``, or ``"cache"``, where the operator
            before has left them.
        operations: multiplications and additions.
        make: makes the arrays; returns what calls the kernel and what calls plain Paddle.
        rows: of activations.
    """

    name: str
    shape: str
    moved: int
    source: str
    operations: int
    make: Callable[[], tuple[Run, Run]]
    rows: int


def kernels(shapes: Shapes) -> list[Kernel]:
    """What is timed, in the order of the table. Nothing is allocated before ``make`` is called."""
    hidden, ffn, width = shapes.hidden, shapes.ffn, shapes.vit_width
    listed = []
    for rows in (1, PATCHES):
        listed.append(norm("rms_norm", rows, hidden))
        listed.append(norm("layer_norm", rows, width))
    for rows in (1, PROMPT):
        listed += [rotary(rows, shapes), swiglu(rows, ffn)]
    listed.append(gelu(PATCHES, shapes.vit_mlp))
    listed += [prefill(shapes), interleaved(shapes)]
    listed += [decode(length, dtype, shapes) for length in (PROMPT, LONG) for dtype in ("float32", "bfloat16")]
    for name in ("linear_w4", "linear_nf4", "linear_w8", "linear_w16"):
        listed += [linear(name, rows, hidden, ffn) for rows in (1, 8, PROMPT)]
    listed += [linear(name, PATCHES, width, shapes.vit_mlp) for name in ("linear_w8", "linear_w16")]
    return listed


def both(run: Run) -> tuple[Run, Run]:
    """``run`` as it is, and in plain Paddle."""
    from paddlemix import ops

    def plain() -> object:
        with ops.using("reference"):
            return run()

    return run, plain


def norm(name: str, rows: int, width: int) -> Kernel:
    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        x, residual = paddle.randn([rows, width]), paddle.randn([rows, width])
        affine = [paddle.ones([width])] if name == "rms_norm" else [paddle.ones([width]), paddle.zeros([width])]
        return both(lambda: getattr(ops, name)(x, *affine, 1e-6, residual))

    # x, residual, their sum, out; some eight operations an element.
    return Kernel(name, f"{rows} × {width}", 16 * rows * width, "cache", 8 * rows * width, make, rows)


def rotary(rows: int, shapes: Shapes) -> Kernel:
    heads, hidden = shapes.heads, shapes.hidden

    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        head_dim = hidden // heads
        caches = [paddle.zeros([1, heads, 2 * PROMPT, head_dim]) for _ in "kv"]
        cache_positions = paddle.to_tensor([PROMPT if rows == 1 else 0], dtype="int32")
        positions = cache_positions.unsqueeze(0) + paddle.arange(rows, dtype="int32").unsqueeze(0)
        cos, sin = (paddle.to_tensor(table).unsqueeze(0) for table in ops.rotary_tables(2 * PROMPT, head_dim, 10000.0))
        qkv, bias = paddle.randn([1, rows, 3 * hidden]), paddle.randn([3 * hidden])
        return both(lambda: ops.rotary_qkv_cache(qkv, bias, heads, cos, sin, positions, *caches, cache_positions))

    return Kernel("rotary_qkv", f"{rows} × 3 · {hidden}", 24 * rows * hidden, "cache", 9 * rows * hidden, make, rows)


def swiglu(rows: int, width: int) -> Kernel:
    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        gate, up = paddle.randn([rows, width]), paddle.randn([rows, width])
        return both(lambda: ops.swiglu(gate, up))

    # Thirty vector instructions, most of them multiply-adds.
    return Kernel("swiglu", f"{rows} × {width}", 12 * rows * width, "cache", 60 * rows * width, make, rows)


def gelu(rows: int, width: int) -> Kernel:
    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        x, bias = paddle.randn([rows, width]), paddle.randn([width])
        return both(lambda: ops.gelu_bias(x, bias))

    # Fifty vector instructions.
    return Kernel("gelu_bias", f"{rows} × {width}", 8 * rows * width, "cache", 100 * rows * width, make, rows)


def prefill(shapes: Shapes) -> Kernel:
    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        head_dim = shapes.hidden // shapes.heads
        query, key, value = (paddle.randn([1, shapes.heads, PROMPT, head_dim]) for _ in "qkv")
        lengths, starts = paddle.to_tensor([PROMPT], dtype="int32"), paddle.to_tensor([0], dtype="int32")
        return both(lambda: ops.attention_prefill(query, key, value, kv_lengths=lengths, query_starts=starts))

    pairs = PROMPT * (PROMPT + 1) // 2  # causal
    shape = f"{shapes.heads} heads, {PROMPT}, causal"
    moved = 16 * PROMPT * shapes.hidden
    return Kernel("attention_prefill", shape, moved, "cache", 4 * pairs * shapes.hidden, make, PROMPT)


def interleaved(shapes: Shapes) -> Kernel:
    heads, width = shapes.vit_heads, shapes.vit_width

    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        qkv = paddle.randn([1, PATCHES, 3 * width])
        return both(lambda: ops.attention_interleaved(qkv, heads))

    shape = f"{heads} heads of {width // heads}, {PATCHES}"
    moved = 16 * PATCHES * width
    return Kernel("attention_interleaved", shape, moved, "cache", 4 * PATCHES**2 * width, make, PATCHES)


def decode(length: int, dtype: str, shapes: Shapes) -> Kernel:
    size = 4 if dtype == "float32" else 2
    moved = 2 * size * length * shapes.hidden

    def make() -> tuple[Run, Run]:
        import paddle

        from paddlemix import ops

        shape = [1, shapes.heads, length, shapes.hidden // shapes.heads]
        query = paddle.randn([*shape[:2], 1, shape[3]])
        lengths = paddle.to_tensor([length], dtype="int32")
        starts = lengths - 1
        caches = in_turn([[paddle.randn(shape).astype(dtype) for _ in "kv"] for _ in range(copies(moved))])
        return both(lambda: ops.attention_decode(query, *caches(), kv_lengths=lengths, query_starts=starts))

    shape = f"{shapes.heads} heads, {length} positions, {dtype}"
    return Kernel("attention_decode", shape, moved, "memory", 4 * length * shapes.hidden, make, 1)


def linear(name: str, rows: int, inputs: int, outputs: int) -> Kernel:
    """Beside it plain Paddle has the weight in float32, as nothing else could be multiplied with there."""
    kind = {"linear_w4": "int4", "linear_nf4": "nf4", "linear_w8": "int8", "linear_w16": "bfloat16"}[name]

    def make() -> tuple[Run, Run]:
        import paddle

        x = paddle.randn([rows, inputs])
        layers, floats = packed_layers(kind, inputs, outputs), float_weights(inputs, outputs)
        return lambda: layers()(x), lambda: paddle.matmul(x, floats())

    shape = f"{rows} × {inputs} → {outputs}"
    moved = weight_bytes(kind, inputs, outputs)  # activations lie in the cache
    return Kernel(name, shape, moved, "memory", 2 * rows * inputs * outputs, make, rows)


def weight_bytes(kind: str, inputs: int, outputs: int) -> int:
    """Of the weights and their scales, without padding."""
    per_input = {"int4": 1 / 2 + 2 / 128, "nf4": 1 / 2 + (1 + 4 / 256) / 64, "int8": 1, "bfloat16": 2}[kind]
    return int(per_input * inputs * outputs) + (4 * outputs if kind == "int8" else 0)


@cache
def packed_layers(kind: str, inputs: int, outputs: int) -> Callable[[], Any]:
    from benchmarks.random_weights import fill
    from paddlemix.quantization.layers import QuantizedLinear

    layers = [QuantizedLinear(inputs, outputs, kind) for _ in range(copies(weight_bytes(kind, inputs, outputs)))]
    for seed, layer in enumerate(layers):
        fill(layer, np.random.default_rng(seed))
    return in_turn(layers)


@cache
def float_weights(inputs: int, outputs: int) -> Callable[[], Any]:
    import paddle

    return in_turn([paddle.randn([inputs, outputs]) for _ in range(copies(4 * inputs * outputs))])


def copies(size: int) -> int:
    return max(1, min(-(-COLD_BYTES // size), MOST_COPIES))


def in_turn(things: list[Any]) -> Callable[[], Any]:
    """Returns a function that returns another one each time."""
    count = [0]

    def following() -> Any:
        count[0] = (count[0] + 1) % len(things)
        return things[count[0]]

    return following
