"""SwiGLU and GELU with bias, and their gradients, on the emulated device."""

import math

import numpy as np
import pytest

from tests.ops.cuda.emulation import FLOAT32, assert_accurate

# Rows, width and elements by which arrays are shifted.
SHAPES = [(0, 8, 0), (1, 8, 0), (5, 104, 0), (5, 104, 1), (33, 17, 0), (2, 1100, 0)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x)


def normal_distribution(z):
    return 0.5 * (1 + erf(z / math.sqrt(2)))


@pytest.mark.parametrize(("rows", "width", "offset"), SHAPES)
@pytest.mark.parametrize("packed", [True, False])
def test_swiglu_matches_float64(emulated, arrays, random, dtype, rows, width, offset, packed):
    both = dtype.round(random.normal(0, 2, size=(rows, 2 * width)))
    gate, up = both[:, :width], both[:, width:]
    stored = arrays.place(dtype.encode(both), offset)
    parts = (
        (stored[:, :width], stored[:, width:]) if packed else tuple(arrays.place(dtype.encode(a)) for a in (gate, up))
    )
    stride = 2 * width if packed else width
    out = arrays.empty((rows, width), dtype.storage)
    emulated("swiglu").launch("swiglu", dtype.code, *parts, stride, out, rows, width)
    exact = gate * sigmoid(gate) * up
    assert_accurate(dtype.decode(out), exact, dtype.round(exact), dtype)


@pytest.mark.parametrize(("rows", "width", "offset"), SHAPES)
@pytest.mark.parametrize("packed", [True, False])
def test_swiglu_gradient_matches_float64(emulated, arrays, random, dtype, rows, width, offset, packed):
    both, grad = (dtype.round(random.normal(0, 2, size=(rows, n))) for n in (2 * width, width))
    gate, up = both[:, :width], both[:, width:]
    if packed:
        stored, grads = arrays.place(dtype.encode(both), offset), arrays.empty(both.shape, dtype.storage)
        parts, results = ([a[:, :width], a[:, width:]] for a in (stored, grads))
    else:
        parts = [arrays.place(dtype.encode(a), offset) for a in (gate, up)]
        results = [arrays.empty(gate.shape, dtype.storage) for _ in range(2)]
    emulated("swiglu").launch(
        "swiglu_grad", dtype.code, *parts, 2 * width if packed else width, arrays.place(dtype.encode(grad)), *results,
        rows, width,
    )  # fmt: skip
    s = sigmoid(gate)
    for result, exact in zip(results, (grad * up * s * (1 + gate * (1 - s)), grad * gate * s)):
        assert_accurate(dtype.decode(result), exact, dtype.round(exact), dtype)


def test_swiglu_of_large_and_undefined_gates(emulated, arrays):
    gate = np.array([[200, -200, np.inf, np.nan, 0, 1, 2, 3]], np.float32)
    out = arrays.empty(gate.shape, np.float32)
    emulated("swiglu").launch(
        "swiglu", FLOAT32.code, arrays.place(gate), arrays.place(np.ones_like(gate)), 8, out, 1, 8
    )
    np.testing.assert_array_equal(out[0, :4], [200, 0, np.inf, np.nan])
    assert np.isfinite(out[0, 4:]).all()


@pytest.mark.parametrize(("rows", "width", "offset"), SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_gelu_bias_matches_float64(emulated, arrays, random, dtype, rows, width, offset, with_bias):
    x, bias = dtype.round(random.normal(0, 2, size=(rows, width))), dtype.round(random.normal(size=width))
    out = arrays.empty((rows, width), dtype.storage, offset)
    stored_bias = arrays.place(dtype.encode(bias)) if with_bias else None
    emulated("gelu_bias").launch("gelu_bias", dtype.code, arrays.place(dtype.encode(x)), stored_bias, out, rows, width)
    z = x + bias if with_bias else x
    exact = z * normal_distribution(z)
    assert_accurate(dtype.decode(out), exact, dtype.round(exact), dtype)


@pytest.mark.parametrize(("rows", "width", "offset"), SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_gelu_bias_gradient_matches_float64(emulated, arrays, random, dtype, rows, width, offset, with_bias):
    x, grad = (dtype.round(random.normal(0, 2, size=(rows, width))) for _ in range(2))
    bias, before = dtype.round(random.normal(size=width)), random.normal(size=width).astype(np.float32)
    grad_x, grad_bias = arrays.empty((rows, width), dtype.storage, offset), arrays.place(before)
    emulated("gelu_bias").launch(
        "gelu_bias_grad", dtype.code, arrays.place(dtype.encode(x)),
        arrays.place(dtype.encode(bias)) if with_bias else None, arrays.place(dtype.encode(grad)), grad_x,
        grad_bias if with_bias else None, rows, width,
    )  # fmt: skip
    z = x + bias if with_bias else x
    exact = grad * (normal_distribution(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    assert_accurate(dtype.decode(grad_x), exact, dtype.round(exact), dtype)
    exact_bias = before + (exact.sum(0) if with_bias else 0)
    assert_accurate(grad_bias, exact_bias, exact_bias.astype(np.float32), FLOAT32, scale=8 * max(rows, 1))


def test_more_rows_than_a_grid_holds_are_all_computed(emulated, arrays):
    rows = 65535 + 3
    x = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    out = arrays.empty((rows, 1), np.float32)
    emulated("gelu_bias").launch("gelu_bias", FLOAT32.code, arrays.place(x), None, out, rows, 1)
    np.testing.assert_allclose(out[-5:], x[-5:] * normal_distribution(x[-5:]), rtol=1e-6)
