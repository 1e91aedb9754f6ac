"""LayerNorm and its gradient on the emulated device."""

import numpy as np
import pytest

from tests.ops.cuda.emulation import FLOAT32, assert_accurate

EPSILON = 1e-6
# As for RMSNorm: the packed path, the scalar one, and what is too wide for either to hold in registers.
SHAPES = [(5, 8, 0), (33, 104, 0), (5, 104, 1), (3, 984, 0), (1, 1664, 0), (1, 4096, 0), (1, 2049, 0), (1, 8200, 0)]


def exact_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + EPSILON)
    return (x - mean) * inverse * weight + bias, mean[:, 0], inverse[:, 0]


def run(launchers, arrays, dtype, x, residual, weight, bias, offset=0):
    """out, sum (None without residual), mean, inverse_std; in float64."""
    rows, width = x.shape
    out = arrays.empty(x.shape, dtype.storage)
    total = None if residual is None else arrays.empty(x.shape, dtype.storage, offset)
    mean, inverse = arrays.empty(rows, np.float32), arrays.empty(rows, np.float32)
    launchers.launch(
        "layer_norm", dtype.code, arrays.place(dtype.encode(x), offset),
        None if residual is None else arrays.place(dtype.encode(residual), offset),
        arrays.place(dtype.encode(weight)), arrays.place(dtype.encode(bias)), EPSILON, out, total, mean, inverse,
        rows, width,
    )  # fmt: skip
    return dtype.decode(out), None if total is None else dtype.decode(total), mean, inverse


@pytest.mark.parametrize(("rows", "width", "offset"), SHAPES)
def test_norm_with_residual_matches_float64(emulated, arrays, random, dtype, rows, width, offset):
    x, residual = (dtype.round(random.normal(1, 2, size=(rows, width))) for _ in range(2))
    weight, bias = (dtype.round(random.normal(size=width)) for _ in range(2))
    out, total, mean, inverse = run(emulated("layer_norm"), arrays, dtype, x, residual, weight, bias, offset)
    np.testing.assert_array_equal(total, dtype.round(x + residual))
    exact, exact_mean, exact_inverse = exact_norm(total, weight, bias)
    assert_accurate(out, exact, dtype.round(exact), dtype)
    np.testing.assert_allclose(mean, exact_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inverse, exact_inverse, rtol=1e-5)


def test_norm_without_residual_matches_float64(emulated, arrays, random, dtype):
    x, weight, bias = (dtype.round(random.normal(size=shape)) for shape in ((5, 1664), 1664, 1664))
    out, *_ = run(emulated("layer_norm"), arrays, dtype, x, None, weight, bias)
    exact = exact_norm(x, weight, bias)[0]
    assert_accurate(out, exact, dtype.round(exact), dtype)


def test_values_far_from_zero_keep_their_digits(emulated, arrays, random):
    x = FLOAT32.round(1000 + random.normal(size=(2, 984)))
    out, *_ = run(emulated("layer_norm"), arrays, FLOAT32, x, None, np.ones(984), np.zeros(984))
    np.testing.assert_allclose(out, exact_norm(x, 1, 0)[0], atol=1e-3)


def test_no_rows_is_no_launch(emulated, arrays):
    run(emulated("layer_norm"), arrays, FLOAT32, np.zeros((0, 8)), None, np.ones(8), np.ones(8))


def test_infinity_makes_its_row_not_a_number(emulated, arrays, random, dtype):
    x = dtype.round(random.normal(size=(3, 104)))
    x[1, 7] = np.inf
    out, *_ = run(emulated("layer_norm"), arrays, dtype, x, None, np.ones(104), np.zeros(104))
    assert np.isnan(out[1]).all() and np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize(("rows", "width", "offset"), [*SHAPES, (70, 40, 0)])
@pytest.mark.parametrize("grad_reaches_sum", [False, True])
def test_gradient_matches_float64(emulated, arrays, random, dtype, rows, width, offset, grad_reaches_sum):
    x, grad_out, grad_sum = (dtype.round(random.normal(size=(rows, width))) for _ in range(3))
    weight = dtype.round(random.normal(size=width))
    _, mean, inverse = (a.astype(np.float32) for a in exact_norm(x, weight, 0))
    before = random.normal(size=(2, width)).astype(np.float32)
    grad_x = arrays.empty(x.shape, dtype.storage, offset)
    grad_weight, grad_bias = arrays.place(before[0]), arrays.place(before[1])
    emulated("layer_norm").launch(
        "layer_norm_grad", dtype.code, arrays.place(dtype.encode(x)), arrays.place(dtype.encode(weight)),
        arrays.place(mean), arrays.place(inverse), arrays.place(dtype.encode(grad_out)),
        arrays.place(dtype.encode(grad_sum)) if grad_reaches_sum else None, grad_x, grad_weight, grad_bias, rows, width,
    )  # fmt: skip

    r = inverse.astype(np.float64)[:, None]
    normalized = (x - mean.astype(np.float64)[:, None]) * r
    g = grad_out * weight
    exact = r * (g - g.mean(-1, keepdims=True) - normalized * (g * normalized).mean(-1, keepdims=True))
    exact = exact + grad_sum if grad_reaches_sum else exact
    assert_accurate(dtype.decode(grad_x), exact, dtype.round(exact), dtype)
    exact_weight, exact_bias = before[0] + (grad_out * normalized).sum(0), before[1] + grad_out.sum(0)
    assert_accurate(grad_weight, exact_weight, exact_weight.astype(np.float32), FLOAT32, scale=4 * rows)
    assert_accurate(grad_bias, exact_bias, exact_bias.astype(np.float32), FLOAT32, scale=4 * rows)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_each_gradient_may_be_unwanted(emulated, arrays, random, wanted):
    x, weight = random.normal(size=(2, 8)).astype(np.float32), np.ones(8, np.float32)
    _, mean, inverse = (a.astype(np.float32) for a in exact_norm(x.astype(np.float64), 1, 0))
    given = [arrays.place(a) for a in (x, weight, mean, inverse, x)]
    outputs = [None, None, None]
    outputs[wanted] = arrays.place(np.zeros_like(x) if wanted == 0 else np.zeros(8, np.float32))
    emulated("layer_norm").launch("layer_norm_grad", FLOAT32.code, *given, None, *outputs, 2, 8)
    assert outputs[wanted].any()
