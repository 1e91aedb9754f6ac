from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact, check_gradients

EPSILON = 1e-6


def exact(x, weight, epsilon=EPSILON):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * np.asarray(weight, np.float64)


def make(rows, width, seed=0):
    generator = np.random.default_rng(seed)
    draw = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    return draw(rows, width), draw(width), draw(rows, width)


def test_divides_by_the_root_of_the_mean_square(any_backend):
    x, weight, _ = make(10, 16)
    actual, same = ops.rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), EPSILON)
    np.testing.assert_allclose(actual.numpy(), exact(x, weight), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(same.numpy(), x)


def test_adds_the_residual_first_and_returns_the_sum(any_backend):
    x, weight, residual = make(6, 24)
    actual, total = ops.rms_norm(*map(paddle.to_tensor, (x, weight)), EPSILON, paddle.to_tensor(residual))
    np.testing.assert_array_equal(total.numpy(), x + residual)
    np.testing.assert_allclose(actual.numpy(), exact(x + residual, weight), rtol=0, atol=2e-6)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_epsilon_counts_where_the_input_is_small(any_backend, epsilon):
    actual, _ = ops.rms_norm(paddle.full([1, 4], 1e-3), paddle.ones([4]), epsilon)
    np.testing.assert_allclose(actual.numpy(), 1e-3 / np.sqrt(1e-6 + epsilon), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 123])
@pytest.mark.parametrize("width", [1, 104, 123 * 8, 1664, 4096, 11008])
def test_kernel_is_as_exact_as_paddle(fused, rows, width):
    x, weight, residual = make(rows, width)
    tensors = [paddle.to_tensor(array) for array in (x, weight)]
    with ops.using("reference"):
        reference, _ = ops.rms_norm(*tensors, EPSILON, paddle.to_tensor(residual))
    for _ in each_instruction_set():
        fast, total = ops.rms_norm(*tensors, EPSILON, paddle.to_tensor(residual))
        assert_as_exact(fast, reference, exact(total.numpy(), weight))


def test_every_instruction_set_gives_the_same_bits(fused):
    x, weight, residual = map(paddle.to_tensor, make(7, 1667))
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append(ops.rms_norm(x, weight, EPSILON, residual)[0].numpy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_views_are_read_as_they_are(any_backend):
    x, weight, _ = make(8, 48)
    wide = paddle.to_tensor(x)
    for view, array in ((wide[:, 1:], x[:, 1:]), (wide[::2, :47], x[::2, :47]), (wide.T[:, :8], x.T)):
        actual, _ = ops.rms_norm(view, paddle.to_tensor(weight)[: view.shape[-1]], EPSILON)
        np.testing.assert_allclose(actual.numpy(), exact(array, weight[: view.shape[-1]]), rtol=0, atol=2e-6)


def test_nothing_in_nothing_out(any_backend):
    normalized, total = ops.rms_norm(paddle.zeros([0, 8]), paddle.ones([8]), EPSILON, paddle.zeros([0, 8]))
    assert normalized.shape == total.shape == [0, 8]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(any_backend, value):
    x, weight, _ = make(3, 32)
    x[1, 7] = value
    actual = ops.rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), EPSILON)[0].numpy()
    assert not np.isfinite(actual[1, 7])
    np.testing.assert_allclose(actual[::2], exact(x[::2], weight), rtol=0, atol=2e-6)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
def test_gradients_match_finite_differences(any_backend, with_residual, frozen):
    x, weight, residual = make(3, 5)
    inputs = [x, weight, residual] if with_residual else [x, weight]

    def both_outputs(x, weight, residual=None):
        normalized, total = ops.rms_norm(x, weight, EPSILON, residual)
        return normalized + 0.5 * total * total

    check_gradients(both_outputs, inputs, frozen)


@pytest.mark.parametrize("output", [0, 1])
def test_gradients_reach_both_terms_when_only_one_output_is_used(any_backend, output):
    arrays = make(4, 6)
    single = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    both = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]

    def outputs(x, weight, residual):
        return ops.rms_norm(x, weight, EPSILON, residual)

    outputs(*single)[output].sum().backward()
    (outputs(*both)[output].sum() + 0.0 * outputs(*both)[1 - output].sum()).backward()
    for one, other in zip((single[0], single[-1]), (both[0], both[-1])):
        np.testing.assert_array_equal(one.grad.numpy(), other.grad.numpy())


@pytest.mark.parametrize(
    "x, weight, residual, message",
    [
        ([2, 8], [7], None, "weight has shape"),
        ([2, 8], [8], [2, 7], "residual has shape"),
        ([2, 8], [8], [1, 8], "residual has shape"),
    ],
)
def test_wrong_shapes_are_refused(fused, x, weight, residual, message):
    residual = None if residual is None else paddle.zeros(residual)
    with pytest.raises(OperatorError, match=f"rms_norm: {message}"):
        ops.rms_norm(paddle.zeros(x), paddle.zeros(weight), EPSILON, residual)


def test_mixed_dtypes_are_refused(fused):
    with pytest.raises(OperatorError, match="weight has another dtype"):
        ops.rms_norm(paddle.zeros([2, 8]), paddle.zeros([8], dtype="float64"), EPSILON)
