"""Norms, activations and the rotation do not depend on the number of threads: not a bit, gradients included."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops

# Enough elements for several threads, in numbers that do not divide evenly.
ROWS, WIDTH = 97, 1666


def rotary(x):
    tables = (paddle.to_tensor(table[None]) for table in ops.rotary_tables(ROWS, 128, 10000.0))
    positions = paddle.arange(ROWS, dtype="int32").unsqueeze(0)
    return ops.rotary_qkv(x[:, :768].unsqueeze(0), None, 2, *tables, positions)


CASES = {
    "rms_norm": lambda x, y, w, b: ops.rms_norm(x, w, 1e-6, y),
    "layer_norm": lambda x, y, w, b: ops.layer_norm(x, w, b, 1e-6, y),
    "swiglu": lambda x, y, w, b: [ops.swiglu(x, y)],
    "packed swiglu": lambda x, y, w, b: [ops.swiglu(x)],
    "gelu_bias": lambda x, y, w, b: [ops.gelu_bias(x, b)],
    "rotary_qkv": lambda x, y, w, b: rotary(x),
}


@pytest.mark.parametrize("name", CASES)
def test_the_number_of_threads_changes_no_bit(fused, name):
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=shape).astype(np.float32) for shape in [(ROWS, WIDTH)] * 2 + [(WIDTH,)] * 2]
    before = ops.set_threads(1)
    results = []
    try:
        for threads in (1, 2, 3):
            ops.set_threads(threads)
            inputs = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
            outputs = CASES[name](*inputs)
            sum((output * output).sum() for output in outputs).backward()
            gradients = [tensor.grad for tensor in inputs if tensor.grad is not None]
            results.append([tensor.numpy() for tensor in (*outputs, *gradients)])
    finally:
        ops.set_threads(before)
    for other in results[1:]:
        assert len(other) == len(results[0]) > 1
        for one, another in zip(results[0], other):
            np.testing.assert_array_equal(one, another)
