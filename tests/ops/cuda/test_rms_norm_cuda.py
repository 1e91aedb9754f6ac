"""RMSNorm and its gradient on the emulated device."""

import numpy as np
import pytest

from tests.ops.cuda.emulation import FLOAT16, FLOAT32, assert_accurate

EPSILON = 1e-6
# Rows, width, and elements by which arrays are shifted: the packed path, the scalar one, and what is too wide for
# either to hold in registers.
SHAPES = [(5, 8, 0), (33, 104, 0), (5, 104, 1), (3, 984, 0), (1, 1664, 0), (1, 4096, 0), (1, 2049, 0), (1, 8200, 0)]


def exact_norm(x, weight):
    inverse = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)
    return x * inverse * weight, inverse[:, 0]


def plain_norm(dtype, x, weight):
    inverse = 1 / np.sqrt((x * x).mean(-1, keepdims=True, dtype=np.float32) + np.float32(EPSILON))
    return dtype.round(dtype.round(x * inverse) * weight)


def run(launchers, arrays, dtype, x, residual, weight, offset=0):
    """out, sum (None without residual), inverse_rms; in float64."""
    rows, width = x.shape
    out = arrays.empty(x.shape, dtype.storage)
    total = None if residual is None else arrays.empty(x.shape, dtype.storage, offset)
    inverse = arrays.empty(rows, np.float32)
    launchers.launch(
        "rms_norm", dtype.code, arrays.place(dtype.encode(x), offset),
        None if residual is None else arrays.place(dtype.encode(residual), offset),
        arrays.place(dtype.encode(weight)), EPSILON, out, total, inverse, rows, width,
    )  # fmt: skip
    return dtype.decode(out), None if total is None else dtype.decode(total), inverse.astype(np.float64)


@pytest.mark.parametrize(("rows", "width", "offset"), SHAPES)
def test_norm_with_residual_matches_float64(emulated, arrays, random, dtype, rows, width, offset):
    x, residual = (dtype.round(random.normal(size=(rows, width))) for _ in range(2))
    weight = dtype.round(random.normal(size=width))
    out, total, inverse = run(emulated("rms_norm"), arrays, dtype, x, residual, weight, offset)
    np.testing.assert_array_equal(total, dtype.round(x + residual))
    exact, exact_inverse = exact_norm(total, weight)
    assert_accurate(out, exact, plain_norm(dtype, total, weight), dtype)
    np.testing.assert_allclose(inverse, exact_inverse, rtol=1e-6)


def test_norm_without_residual_matches_float64(emulated, arrays, random, dtype):
    x, weight = dtype.round(random.normal(size=(5, 1664))), dtype.round(random.normal(size=1664))
    out, _, _ = run(emulated("rms_norm"), arrays, dtype, x, None, weight)
    assert_accurate(out, exact_norm(x, weight)[0], plain_norm(dtype, x, weight), dtype)


def test_normalized_value_is_rounded_before_the_weight(emulated, arrays, random):
    x, weight = FLOAT16.round(random.normal(size=(5, 104))), FLOAT16.round(random.normal(size=104))
    out, _, inverse = run(emulated("rms_norm"), arrays, FLOAT16, x, None, weight)
    normalized = FLOAT16.round(x.astype(np.float32) * inverse[:, None].astype(np.float32))
    np.testing.assert_array_equal(out, FLOAT16.round(normalized * weight))


def test_no_rows_is_no_launch(emulated, arrays):
    empty = np.zeros((0, 8))
    run(emulated("rms_norm"), arrays, FLOAT32, empty, None, np.ones(8))


def test_not_a_number_stays_in_its_row(emulated, arrays, random, dtype):
    x = dtype.round(random.normal(size=(3, 104)))
    x[1, 7] = np.nan
    out, _, _ = run(emulated("rms_norm"), arrays, dtype, x, None, np.ones(104))
    assert np.isnan(out[1]).all() and np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize(("rows", "width", "offset"), [*SHAPES, (70, 40, 0)])
@pytest.mark.parametrize("grad_reaches_sum", [False, True])
def test_gradient_matches_float64(emulated, arrays, random, dtype, rows, width, offset, grad_reaches_sum):
    x, grad_out, grad_sum = (dtype.round(random.normal(size=(rows, width))) for _ in range(3))
    weight = dtype.round(random.normal(size=width))
    inverse = exact_norm(x, weight)[1].astype(np.float32)
    before = random.normal(size=width).astype(np.float32)
    grad_x, grad_weight = arrays.empty(x.shape, dtype.storage, offset), arrays.place(before)
    emulated("rms_norm").launch(
        "rms_norm_grad", dtype.code, arrays.place(dtype.encode(x)), arrays.place(dtype.encode(weight)),
        arrays.place(inverse), arrays.place(dtype.encode(grad_out)),
        arrays.place(dtype.encode(grad_sum)) if grad_reaches_sum else None, grad_x, grad_weight, rows, width,
    )  # fmt: skip

    r = inverse.astype(np.float64)[:, None]
    exact = r * (grad_out * weight - x * r * r * (grad_out * weight * x).mean(-1, keepdims=True))
    exact = exact + grad_sum if grad_reaches_sum else exact
    assert_accurate(dtype.decode(grad_x), exact, dtype.round(exact), dtype)
    exact_weight = before + (grad_out * x * r).sum(0)
    assert_accurate(grad_weight, exact_weight, exact_weight.astype(np.float32), FLOAT32, scale=np.abs(x).max() * rows)


def test_unwanted_gradients_are_not_written(emulated, arrays, random):
    x, weight = random.normal(size=(2, 8)).astype(np.float32), np.ones(8, np.float32)
    inverse = exact_norm(x, weight)[1].astype(np.float32)
    given = [arrays.place(a) for a in (x, weight, inverse, x)]
    grad_x, grad_weight = arrays.place(x), arrays.place(weight)
    emulated("rms_norm").launch("rms_norm_grad", FLOAT32.code, *given, None, grad_x, None, 2, 8)
    emulated("rms_norm").launch("rms_norm_grad", FLOAT32.code, *given, None, None, grad_weight, 2, 8)
    assert not np.array_equal(grad_x, x) and not np.array_equal(grad_weight, weight)
