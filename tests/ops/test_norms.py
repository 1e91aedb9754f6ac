"""RMSNorm and LayerNorm: what holds of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact, check_gradients

EPSILON = 1e-6


def exact_rms_norm(x, weight, epsilon=EPSILON):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * np.asarray(weight, np.float64)


def exact_layer_norm(x, weight, bias, epsilon=EPSILON):
    x = np.asarray(x, np.float64)
    return exact_rms_norm(x - x.mean(-1, keepdims=True), weight, epsilon) + np.asarray(bias, np.float64)


@dataclass(frozen=True)
class Norm:
    """An operator, the same in float64, and the names of its parameters."""

    name: str
    run: Callable
    exact: Callable
    parameters: tuple[str, ...]

    def make(self, rows, width, seed=0):
        """x, the parameters and a residual."""
        generator = np.random.default_rng(seed)
        shapes = [(rows, width), *[(width,)] * len(self.parameters), (rows, width)]
        return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


NORMS = {
    "rms_norm": Norm("rms_norm", ops.rms_norm, exact_rms_norm, ("weight",)),
    "layer_norm": Norm("layer_norm", ops.layer_norm, exact_layer_norm, ("weight", "bias")),
}


@pytest.fixture(params=NORMS)
def norm(request: pytest.FixtureRequest) -> Norm:
    """One norm after the other."""
    return NORMS[request.param]


def test_normalizes_the_last_axis(norm, any_backend):
    arrays = norm.make(10, 16)[:-1]
    actual, same = norm.run(*map(paddle.to_tensor, arrays), EPSILON)
    np.testing.assert_allclose(actual.numpy(), norm.exact(*arrays), rtol=0, atol=4e-6)
    np.testing.assert_array_equal(same.numpy(), arrays[0])


def test_adds_the_residual_first_and_returns_the_sum(norm, any_backend):
    x, *parameters, residual = norm.make(6, 24)
    actual, total = norm.run(*map(paddle.to_tensor, (x, *parameters)), EPSILON, paddle.to_tensor(residual))
    np.testing.assert_array_equal(total.numpy(), x + residual)
    np.testing.assert_allclose(actual.numpy(), norm.exact(x + residual, *parameters), rtol=0, atol=4e-6)


def test_leading_axes_may_be_any_number(norm, any_backend):
    x, *parameters, _ = norm.make(12, 8)
    actual, _ = norm.run(*map(paddle.to_tensor, (x.reshape(2, 3, 2, 8), *parameters)), EPSILON)
    np.testing.assert_allclose(actual.numpy().reshape(12, 8), norm.exact(x, *parameters), rtol=0, atol=4e-6)


@pytest.mark.parametrize("rows", [1, 5, 123])
@pytest.mark.parametrize("width", [1, 104, 123 * 8, 1664, 4096, 11008])
def test_kernel_is_as_exact_as_paddle(norm, fused, rows, width):
    x, *parameters, residual = map(paddle.to_tensor, norm.make(rows, width))
    with ops.using("reference"):
        reference, _ = norm.run(x, *parameters, EPSILON, residual)
    for _ in each_instruction_set():
        fast, total = norm.run(x, *parameters, EPSILON, residual)
        assert_as_exact(fast, reference, norm.exact(total, *parameters))


def test_every_instruction_set_gives_the_same_bits(norm, fused):
    x, *parameters, residual = map(paddle.to_tensor, norm.make(7, 1667))
    results = [norm.run(x, *parameters, EPSILON, residual)[0].numpy() for _ in each_instruction_set()]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_views_are_read_as_they_are(norm, any_backend):
    x, *parameters, _ = norm.make(8, 48)
    wide = paddle.to_tensor(x)
    for view, array in ((wide[:, 1:], x[:, 1:]), (wide[::2, :47], x[::2, :47]), (wide.T[:, :8], x.T)):
        cut = [parameter[: view.shape[-1]] for parameter in parameters]
        actual, _ = norm.run(view, *map(paddle.to_tensor, cut), EPSILON)
        np.testing.assert_allclose(actual.numpy(), norm.exact(array, *cut), rtol=0, atol=4e-6)


def test_nothing_in_nothing_out(norm, any_backend):
    empty, ones = paddle.zeros([0, 8]), [paddle.ones([8])] * len(norm.parameters)
    normalized, total = norm.run(empty, *ones, EPSILON, empty)
    assert normalized.shape == total.shape == [0, 8]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(norm, any_backend, value):
    x, *parameters, _ = norm.make(3, 32)
    x[1, 7] = value
    actual = norm.run(*map(paddle.to_tensor, (x, *parameters)), EPSILON)[0].numpy()
    assert not np.isfinite(actual[1, 7])
    np.testing.assert_allclose(actual[::2], norm.exact(x[::2], *parameters), rtol=0, atol=4e-6)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("frozen", ["nothing", "x", "parameters"])
def test_gradients_match_finite_differences(norm, any_backend, with_residual, frozen):
    inputs = norm.make(3, 5)[: None if with_residual else -1]
    count = len(norm.parameters)
    indices = {"nothing": (), "x": (0,), "parameters": tuple(range(1, 1 + count))}[frozen]

    def both_outputs(x, *rest):
        normalized, total = norm.run(x, *rest[:count], EPSILON, *rest[count:])
        return normalized + 0.5 * total * total

    check_gradients(both_outputs, inputs, indices)


@pytest.mark.parametrize("output", [0, 1])
def test_gradients_reach_both_terms_when_only_one_output_is_used(norm, any_backend, output):
    arrays = norm.make(4, 6)
    single = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    both = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]

    def outputs(x, *rest):
        return norm.run(x, *rest[:-1], EPSILON, rest[-1])

    outputs(*single)[output].sum().backward()
    (outputs(*both)[output].sum() + 0.0 * outputs(*both)[1 - output].sum()).backward()
    for one, other in zip((single[0], single[-1]), (both[0], both[-1])):
        np.testing.assert_array_equal(one.grad.numpy(), other.grad.numpy())


def test_wrong_shapes_are_refused(norm, fused):
    right = [paddle.zeros([2, 8]), *[paddle.zeros([8])] * len(norm.parameters), paddle.zeros([2, 8])]
    wrong = [([2, 7], len(right) - 1, "residual"), ([1, 8], len(right) - 1, "residual")]
    wrong += [([7], index, name) for index, name in enumerate(norm.parameters, 1)]
    for shape, index, name in wrong:
        x, *parameters, residual = [*right[:index], paddle.zeros(shape), *right[index + 1 :]]
        with pytest.raises(OperatorError, match=f"{norm.name}: {name} has shape"):
            norm.run(x, *parameters, EPSILON, residual)


def test_mixed_dtypes_are_refused(norm, fused):
    for index, name in enumerate(norm.parameters):
        parameters = [paddle.zeros([8])] * len(norm.parameters)
        parameters[index] = paddle.zeros([8], dtype="float64")
        with pytest.raises(OperatorError, match=f"{name} has another dtype"):
            norm.run(paddle.zeros([2, 8]), *parameters, EPSILON)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_epsilon_counts_where_the_input_is_small(any_backend, epsilon):
    actual, _ = ops.rms_norm(paddle.full([1, 4], 1e-3), paddle.ones([4]), epsilon)
    np.testing.assert_allclose(actual.numpy(), 1e-3 / np.sqrt(1e-6 + epsilon), rtol=1e-5)


def test_a_large_mean_does_not_cost_the_variance_its_digits(fused):
    generator = np.random.default_rng(3)
    x = (1000 + generator.normal(size=(4, 1664))).astype(np.float32)
    ones, zeros = paddle.ones([1664]), paddle.zeros([1664])
    actual, _ = ops.layer_norm(paddle.to_tensor(x), ones, zeros, EPSILON)
    np.testing.assert_allclose(actual.numpy(), exact_layer_norm(x, ones, zeros), rtol=0, atol=2e-4)  # 1000 eps: 1.2e-4
