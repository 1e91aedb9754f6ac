from __future__ import annotations

from math import erfc, sqrt

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact, check_gradients

_erfc = np.vectorize(erfc, otypes=[np.float64])


def exact(x, bias):
    x = np.asarray(x, np.float64) + np.asarray(bias, np.float64)
    return 0.5 * x * _erfc(-x / sqrt(2))


def make(rows, width, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 2, size=shape).astype(np.float32) for shape in ((rows, width), (width,))]


def test_adds_the_bias_and_weights_by_the_normal_distribution(any_backend):
    actual = ops.gelu_bias(paddle.to_tensor([[0.0, 1.0, -2.0]]), paddle.to_tensor([0.0, 1.0, 1.0])).numpy()
    np.testing.assert_allclose(actual, [[0.0, 1.9544997, -0.15865526]], rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("width", [1, 104, 123 * 8, 1664, 8192])
def test_kernel_is_as_exact_as_paddle(fused, rows, width):
    x, bias = make(rows, width)
    tensors = paddle.to_tensor(x), paddle.to_tensor(bias)
    with ops.using("reference"):
        reference = ops.gelu_bias(*tensors)
    expected = exact((tensors[0] + tensors[1]).numpy(), 0.0)
    for _ in each_instruction_set():
        assert_as_exact(ops.gelu_bias(*tensors), reference, expected)


def test_every_value_is_exact_to_a_few_units_in_the_last_place(fused):
    x = np.linspace(-12, 12, 100001).astype(np.float32)
    actual = ops.gelu_bias(paddle.to_tensor(x), paddle.zeros([len(x)])).numpy()
    nonzero = x != 0
    expected, units = exact(x, 0.0), 2.0**-24 * (1 + np.minimum(x.astype(np.float64), 0) ** 2)
    error = np.abs(actual[nonzero] / expected[nonzero] - 1) / units[nonzero]
    assert error.max() < 6  # in the tail of the normal distribution times x², as of a rounded exponent


def test_every_instruction_set_gives_the_same_bits(fused):
    x, bias = map(paddle.to_tensor, make(7, 1667))
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append(ops.gelu_bias(x, bias).numpy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_far_out_it_is_zero_or_the_identity(any_backend):
    x = np.array([-1e30, -40, -20, 20, 40, 1e30], np.float32)
    actual = ops.gelu_bias(paddle.to_tensor(x), paddle.zeros([6])).numpy()
    np.testing.assert_allclose(actual, np.maximum(x, 0), rtol=0, atol=1e-30)


def test_what_is_not_finite_stays_so_and_spoils_nothing_else(any_backend):
    x, bias = make(3, 32)
    x[1, 7], x[1, 8] = np.nan, np.inf
    actual = ops.gelu_bias(paddle.to_tensor(x), paddle.to_tensor(bias)).numpy()
    assert np.isnan(actual[1, 7]) and np.isinf(actual[1, 8])
    good = np.isfinite(x)
    np.testing.assert_allclose(actual[good], exact(x + bias, 0.0)[good], rtol=0, atol=2e-6)


def test_views_are_read_as_they_are(any_backend):
    x, bias = make(8, 48)
    actual = ops.gelu_bias(paddle.to_tensor(x)[::2, 1:], paddle.to_tensor(bias)[1:])
    np.testing.assert_allclose(actual.numpy(), exact(x[::2, 1:], bias[1:]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [[0, 8], [3, 0]])
def test_nothing_in_nothing_out(any_backend, shape):
    assert ops.gelu_bias(paddle.zeros(shape), paddle.zeros(shape[1:])).shape == shape


@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
def test_gradients_match_finite_differences(any_backend, frozen):
    check_gradients(ops.gelu_bias, make(3, 5), frozen)


def test_single_precision_gradients_are_those_of_double(instruction_set):
    x, bias = make(9, 50)
    grads = []
    for dtype in ("float32", "float64"):
        tensors = [paddle.to_tensor(array.astype(dtype), stop_gradient=False) for array in (x, bias)]
        ops.gelu_bias(*tensors).sum().backward()
        grads.append([tensor.grad.numpy() for tensor in tensors])
    for single, double in zip(*grads):
        np.testing.assert_allclose(single, double, rtol=0, atol=5e-6)


def test_wrong_shapes_and_dtypes_are_refused(fused):
    with pytest.raises(OperatorError, match="gelu_bias: bias has shape"):
        ops.gelu_bias(paddle.zeros([2, 8]), paddle.zeros([7]))
    with pytest.raises(OperatorError, match="bias has another dtype"):
        ops.gelu_bias(paddle.zeros([2, 8]), paddle.zeros([8], dtype="float64"))


def test_without_a_bias_nothing_is_added(any_backend):
    x, _ = make(5, 104)
    actual = ops.gelu_bias(paddle.to_tensor(x), None).numpy()
    np.testing.assert_array_equal(actual, ops.gelu_bias(paddle.to_tensor(x), paddle.zeros([104])).numpy())


def test_gradient_without_a_bias_matches_finite_differences(any_backend):
    check_gradients(lambda x: ops.gelu_bias(x, None), [make(3, 5)[0]])
