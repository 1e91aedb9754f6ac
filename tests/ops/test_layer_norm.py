from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact, check_gradients

EPSILON = 1e-6


def exact(x, weight, bias, epsilon=EPSILON):
    x, weight, bias = (np.asarray(array, np.float64) for array in (x, weight, bias))
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def make(rows, width, seed=0):
    """x, weight, bias, residual."""
    generator = np.random.default_rng(seed)
    draw = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    return draw(rows, width), draw(width), draw(width), draw(rows, width)


def test_subtracts_the_mean_and_divides_by_the_deviation(any_backend):
    x, weight, bias, _ = make(10, 16)
    actual, same = ops.layer_norm(*map(paddle.to_tensor, (x, weight, bias)), EPSILON)
    np.testing.assert_allclose(actual.numpy(), exact(x, weight, bias), rtol=0, atol=4e-6)
    np.testing.assert_array_equal(same.numpy(), x)


def test_adds_the_residual_first_and_returns_the_sum(any_backend):
    x, weight, bias, residual = map(paddle.to_tensor, make(6, 24))
    actual, total = ops.layer_norm(x, weight, bias, EPSILON, residual)
    np.testing.assert_array_equal(total.numpy(), (x + residual).numpy())
    np.testing.assert_allclose(actual.numpy(), exact(total, weight, bias), rtol=0, atol=4e-6)


def test_leading_axes_may_be_any_number(any_backend):
    x, weight, bias, _ = make(12, 8)
    actual, _ = ops.layer_norm(*map(paddle.to_tensor, (x.reshape(2, 3, 2, 8), weight, bias)), EPSILON)
    np.testing.assert_allclose(actual.numpy().reshape(12, 8), exact(x, weight, bias), rtol=0, atol=4e-6)


@pytest.mark.parametrize("rows", [1, 5, 123])
@pytest.mark.parametrize("width", [1, 104, 123 * 8, 1664, 4096, 11008])
def test_kernel_is_as_exact_as_paddle(fused, rows, width):
    tensors = [paddle.to_tensor(array) for array in make(rows, width)]
    x, weight, bias, residual = tensors
    with ops.using("reference"):
        reference, _ = ops.layer_norm(x, weight, bias, EPSILON, residual)
    for _ in each_instruction_set():
        fast, total = ops.layer_norm(x, weight, bias, EPSILON, residual)
        assert_as_exact(fast, reference, exact(total, weight, bias))


def test_a_large_mean_does_not_cost_the_variance_its_digits(fused):
    generator = np.random.default_rng(3)
    x = (1000 + generator.normal(size=(4, 1664))).astype(np.float32)
    ones, zeros = paddle.ones([1664]), paddle.zeros([1664])
    actual, _ = ops.layer_norm(paddle.to_tensor(x), ones, zeros, EPSILON)
    np.testing.assert_allclose(actual.numpy(), exact(x, ones, zeros), rtol=0, atol=2e-4)  # 1000 * eps is 1.2e-4


def test_every_instruction_set_gives_the_same_bits(fused):
    x, weight, bias, residual = map(paddle.to_tensor, make(7, 1667))
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append(ops.layer_norm(x, weight, bias, EPSILON, residual)[0].numpy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_views_are_read_as_they_are(any_backend):
    x, weight, bias, _ = make(8, 48)
    wide = paddle.to_tensor(x)
    for view, array in ((wide[:, 1:], x[:, 1:]), (wide[::2, :47], x[::2, :47]), (wide.T[:, :8], x.T)):
        width = view.shape[-1]
        actual, _ = ops.layer_norm(view, paddle.to_tensor(weight)[:width], paddle.to_tensor(bias)[:width], EPSILON)
        np.testing.assert_allclose(actual.numpy(), exact(array, weight[:width], bias[:width]), rtol=0, atol=4e-6)


def test_nothing_in_nothing_out(any_backend):
    empty, ones = paddle.zeros([0, 8]), paddle.ones([8])
    normalized, total = ops.layer_norm(empty, ones, ones, EPSILON, empty)
    assert normalized.shape == total.shape == [0, 8]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(any_backend, value):
    x, weight, bias, _ = make(3, 32)
    x[1, 7] = value
    actual = ops.layer_norm(*map(paddle.to_tensor, (x, weight, bias)), EPSILON)[0].numpy()
    assert not np.isfinite(actual[1, 7])
    np.testing.assert_allclose(actual[::2], exact(x[::2], weight, bias), rtol=0, atol=4e-6)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
def test_gradients_match_finite_differences(any_backend, with_residual, frozen):
    inputs = make(3, 5)[: 4 if with_residual else 3]

    def both_outputs(x, weight, bias, residual=None):
        normalized, total = ops.layer_norm(x, weight, bias, EPSILON, residual)
        return normalized + 0.5 * total * total

    check_gradients(both_outputs, inputs, frozen)


@pytest.mark.parametrize("output", [0, 1])
def test_gradients_reach_both_terms_when_only_one_output_is_used(any_backend, output):
    arrays = make(4, 6)
    single = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    both = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]

    def outputs(x, weight, bias, residual):
        return ops.layer_norm(x, weight, bias, EPSILON, residual)

    outputs(*single)[output].sum().backward()
    (outputs(*both)[output].sum() + 0.0 * outputs(*both)[1 - output].sum()).backward()
    for one, other in zip((single[0], single[-1]), (both[0], both[-1])):
        np.testing.assert_array_equal(one.grad.numpy(), other.grad.numpy())


@pytest.mark.parametrize(
    "x, weight, bias, residual, message",
    [
        ([2, 8], [7], [8], None, "weight has shape"),
        ([2, 8], [8], [7], None, "bias has shape"),
        ([2, 8], [8], [8], [2, 7], "residual has shape"),
        ([2, 8], [8], [8], [1, 8], "residual has shape"),
    ],
)
def test_wrong_shapes_are_refused(fused, x, weight, bias, residual, message):
    residual = None if residual is None else paddle.zeros(residual)
    with pytest.raises(OperatorError, match=f"layer_norm: {message}"):
        ops.layer_norm(paddle.zeros(x), paddle.zeros(weight), paddle.zeros(bias), EPSILON, residual)


def test_mixed_dtypes_are_refused(fused):
    x, single, double = paddle.zeros([2, 8]), paddle.zeros([8]), paddle.zeros([8], dtype="float64")
    for weight, bias, name in ((double, single, "weight"), (single, double, "bias")):
        with pytest.raises(OperatorError, match=f"{name} has another dtype"):
            ops.layer_norm(x, weight, bias, EPSILON)
