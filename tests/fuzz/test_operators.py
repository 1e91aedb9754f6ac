"""Operators with random arguments, right and wrong: they compute, or refuse with an OperatorError; nothing else."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.ops import backend
from paddlemix.ops.checks import PARAMETERS
from paddlemix.ops.linear_w4 import dequantize_w4, pack_w4, quantize_w4
from paddlemix.ops.linear_w8 import dequantize_w8, pack_w8, quantize_w8
from paddlemix.ops.linear_w16 import dequantize_w16, pack_w16
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record

CALLS = 40 * FACTOR
SIZES = (0, 1, 1, 2, 3, 4, 7, 8, 16, 17, 33, 64)
DTYPES = ("float32", "float64", "bfloat16", "float16", "int32", "int64", "int8", "uint8", "bool")
ODD_NUMBERS = (-1, -(2**31), 2**31 - 1, 10**6, -(10**6))


class Arguments:
    """Draws arguments; one in about ten is none that fits."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.differentiate = self.random.random() < 0.2

    def size(self) -> int:
        return self.random.choice(SIZES)

    def one_of(self, *values):
        return self.random.choice(values)

    def maybe(self, value, chance: float = 0.4):
        return value if self.random.random() < chance else None

    def floats(self, *shape: int, dtype: str = "float32"):
        values = self.numpy.standard_normal(shape).astype("float32")
        if values.size and self.random.random() < 0.2:
            values.reshape(-1)[self.random.randrange(values.size)] = self.one_of(np.nan, np.inf, -np.inf, 3e38, 1e-45)
        tensor = paddle.to_tensor(values).astype(dtype)
        tensor.stop_gradient = not (self.differentiate and dtype in ("float32", "float64"))
        return self._spoiled(tensor)

    def indices(self, *shape: int, limit: int):
        values = self.numpy.integers(0, max(limit, 1), shape).astype("int32")
        if values.size and self.random.random() < 0.15:
            values.reshape(-1)[self.random.randrange(values.size)] = self.one_of(*ODD_NUMBERS, limit)
        return self._spoiled(paddle.to_tensor(values))

    def _spoiled(self, tensor):
        chance = self.random.random()
        if chance < 0.02:
            return self.one_of(None, None, [1.0], 3, "x", np.ones(3, "float32"), paddle.Tensor())
        if chance < 0.04:
            return tensor.astype(self.one_of(*DTYPES))
        if chance < 0.06:
            return tensor.unsqueeze(0)
        if chance < 0.08:
            return tensor.flatten()
        if chance < 0.12 and tensor.shape[-1] > 1:  # a view with gaps
            return paddle.concat([tensor, tensor], axis=-1)[..., : tensor.shape[-1]]
        return tensor


def leading(a: Arguments) -> list[int]:
    return [a.size() for _ in range(a.random.randrange(3))]


def norm(a):
    dtype, shape = a.one_of("float32", "float64"), [*leading(a), a.size()]
    x, residual = a.floats(*shape, dtype=dtype), a.maybe(a.floats(*shape, dtype=dtype))
    weights = [a.floats(shape[-1] if a.random.random() < 0.9 else a.size(), dtype=dtype) for _ in range(2)]
    epsilon = a.one_of(1e-6, 0.0, -1.0, float("nan"))
    if a.random.random() < 0.5:
        return ops.rms_norm(x, weights[0], epsilon, residual)
    return ops.layer_norm(x, *weights, epsilon, residual)


def activation(a):
    shape = [*leading(a), a.size()]
    x = a.floats(*shape)
    if a.random.random() < 0.5:
        return ops.swiglu(x, a.maybe(a.floats(*shape)))
    return ops.gelu_bias(x, a.maybe(a.floats(shape[-1])))


def linear(a):
    inputs, outputs = max(a.size(), 1), max(a.size(), 1)
    weight = paddle.to_tensor(a.numpy.standard_normal([inputs, outputs]).astype("float32"))
    x, bias = a.floats(*leading(a), inputs if a.random.random() < 0.9 else a.size()), a.maybe(a.floats(outputs))
    asked = outputs if a.random.random() < 0.9 else a.one_of(0, -1, a.size(), 2**31, 2**40)
    kind = a.one_of("w4", "w8", "w16")
    packed = {"w4": quantize_w4, "w8": quantize_w8, "w16": lambda w: (pack_w16(w, "bfloat16"),)}[kind](weight)
    packed = [a._spoiled(tensor) for tensor in packed]
    if a.random.random() < 0.3:
        unpack = {"w4": dequantize_w4, "w8": dequantize_w8, "w16": dequantize_w16}[kind]
        return unpack(*packed, inputs, asked)
    return {"w4": ops.linear_w4, "w8": ops.linear_w8, "w16": ops.linear_w16}[kind](x, *packed, bias, asked)


def pack(a):
    q = paddle.to_tensor(a.numpy.integers(*a.one_of((-8, 8), (-127, 128), (-128, 128)), [a.size(), a.size()]))
    return a.one_of(pack_w4, pack_w8)(a._spoiled(q.astype("int8")))


def attention(a):
    batch, heads, length, width = (
        a.one_of(0, 1, 2, 3),
        a.one_of(1, 2, 5),
        a.one_of(0, 1, 2, 9, 33),
        a.one_of(1, 8, 33, 64),
    )
    dtype = a.one_of("float32", "float32", "float64")
    blocks, size, pages = a.one_of(1, 2, 5), a.one_of(1, 4, 33), a.one_of(1, 2, 3)
    table = a.maybe(a.indices(batch, pages, limit=blocks))
    shape = [blocks if table is not None else batch, heads, size, width]
    slots = size * (pages if table is not None else 1)
    kv = a.one_of(dtype, "bfloat16")
    return a.one_of(ops.attention_prefill, ops.attention_decode)(
        a.floats(batch, heads, length, width, dtype=dtype),
        a.floats(*shape, dtype=kv),
        a.floats(*shape, dtype=kv),
        kv_lengths=a.indices(batch, limit=slots + 1),
        query_starts=a.maybe(a.indices(batch, limit=slots)),
        kv_starts=a.maybe(a.indices(batch, limit=slots)),
        block_table=table,
        mask=a.maybe(a.floats(a.one_of(1, batch), length, slots), 0.2),
    )


def interleaved(a):
    heads = a.one_of(1, 2, 3)
    qkv = a.floats(a.size(), a.size(), 3 * heads * a.one_of(0, 1, 8, 33))
    return ops.attention_interleaved(qkv, a.one_of(heads, heads, heads, 0, -1, 7, 2**40))


def rotary(a):
    batch, length, heads, width = a.one_of(0, 1, 2), a.one_of(0, 1, 5), a.one_of(1, 2, 3), a.one_of(2, 4, 62)
    tables, positions = a.one_of(1, 2), a.one_of(1, 5, 64)
    dtype = a.one_of("float32", "float32", "float64")
    arguments = [
        a.floats(batch, length, 3 * heads * width, dtype=dtype),
        a.maybe(a.floats(3 * heads * width, dtype=dtype)),
        heads if a.random.random() < 0.95 else a.one_of(0, -1, heads + 1, 2**62),
        a.floats(tables, positions, width),
        a.floats(tables, positions, width),
        a.indices(batch, length, limit=positions),
    ]
    options = {"logn": a.maybe(a.floats(positions)), "table_index": a.maybe(a.indices(batch, limit=tables))}
    if a.random.random() < 0.4:
        return ops.rotary_qkv(*arguments, **options)
    blocks, size, pages = a.one_of(1, 5), a.one_of(1, 4, 16), a.one_of(1, 2)
    table = a.maybe(a.indices(batch, pages, limit=blocks))
    shape = [blocks if table is not None else batch, heads, size, width]
    caches = [paddle.zeros(shape, a.one_of(dtype, dtype, "bfloat16")) for _ in range(2)]
    slots, lengths = a.indices(batch, limit=size * pages), a.maybe(a.indices(batch, limit=length + 1))
    return ops.rotary_qkv_cache(*arguments, *caches, slots, lengths=lengths, block_table=table, **options)


def registered(a):
    name = a.one_of(*PARAMETERS, "paddlemix_nothing")
    arguments = []
    for _ in range(a.random.randrange(9)):
        tensor = a.floats(*leading(a), a.size())
        arguments.append(tensor if a.random.random() < 0.7 else a.one_of(None, 0, 1, 2**62, 2**70, 1.5, "x"))
    return backend.run(name, *arguments)


KINDS = (norm, activation, linear, pack, attention, interleaved, rotary, registered)


@pytest.mark.parametrize("mode", ["reference", "auto"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_operators_compute_or_refuse(kind, mode):
    if kind is registered and backend.library().missing is not None:
        pytest.skip(backend.library().missing)
    results = Counter()

    def call(arguments):
        outputs = kind(arguments)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        if arguments.differentiate and not outputs[0].stop_gradient:
            outputs[0].sum().backward()
        for output in outputs:
            output.numpy()

    for seed in range(CALLS):
        arguments = Arguments(seed)
        with ops.using(mode), paddle.set_grad_enabled(arguments.differentiate):
            case = f"{kind.__name__}, {mode}, seed {seed}"
            results[attempt(case, lambda arguments=arguments: call(arguments))] += 1
    assert set(results) <= {"ok", "OperatorError"}
    assert results["OperatorError"] and (results["ok"] or kind is registered), results
    record(f"calls of operators ({kind.__name__})", CALLS)
