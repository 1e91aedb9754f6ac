from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.ops.exactness import assert_as_exact, check_gradients


@pytest.fixture(autouse=True)
def without_gradients():
    with paddle.no_grad():
        yield


def make(rows, inputs, outputs):
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape).astype(np.float32) for shape in ((rows, inputs), (inputs, outputs), outputs)]


@pytest.mark.parametrize("rows", [1, 5, 8, 9, 123])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (104, 63), (192, 576), (192, 1344), (384, 65), (984, 104)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_is_as_exact_as_paddle(instruction_set, rows, inputs, outputs, with_bias):
    x, weight, bias = make(rows, inputs, outputs)
    exact = x.astype(np.float64) @ weight + (bias if with_bias else 0)
    arguments = [paddle.to_tensor(x), paddle.to_tensor(weight), paddle.to_tensor(bias) if with_bias else None]
    fast = ops.linear_w32(*arguments)
    with ops.using("reference"):
        assert_as_exact(fast, ops.linear_w32(*arguments), exact)


def test_every_instruction_set_gives_the_same_bits(fused):
    arguments = list(map(paddle.to_tensor, make(3, 200, 130)))
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append(ops.linear_w32(*arguments).numpy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_row_does_not_depend_on_those_beside_it(fused):
    x, weight, bias = map(paddle.to_tensor, make(8, 192, 576))
    together = ops.linear_w32(x, weight, bias).numpy()
    for row in range(8):
        np.testing.assert_array_equal(ops.linear_w32(x[row : row + 1], weight, bias).numpy()[0], together[row])


def test_leading_axes_views_and_nothing(any_backend):
    x, weight, bias = make(6, 32, 40)
    expected = x @ weight + bias
    tensors = paddle.to_tensor(x), paddle.to_tensor(weight), paddle.to_tensor(bias)
    deep = ops.linear_w32(tensors[0].reshape([2, 3, 32]), *tensors[1:])
    np.testing.assert_allclose(deep.numpy(), expected.reshape(2, 3, 40), rtol=1e-5, atol=1e-5)
    view = ops.linear_w32(tensors[0][::2], *tensors[1:])
    np.testing.assert_allclose(view.numpy(), expected[::2], rtol=1e-5, atol=1e-5)
    assert ops.linear_w32(tensors[0][:0], *tensors[1:]).shape == [0, 40]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(any_backend, value):
    x, weight, bias = make(3, 32, 40)
    x[1, 5] = value
    actual = ops.linear_w32(*map(paddle.to_tensor, (x, weight, bias))).numpy()
    assert not np.isfinite(actual[1]).any() and np.isfinite(actual[::2]).all()


def test_gradients_match_finite_differences(any_backend):
    with paddle.enable_grad():
        check_gradients(ops.linear_w32, make(2, 4, 3))


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [([2, 7], [8, 3], [3], "x has shape"), ([2, 8], [8, 3], [4], "bias has shape"), ([2, 8], [8], None, "weight must")],
)
def test_wrong_shapes_are_refused(fused, x, weight, bias, message):
    with pytest.raises(OperatorError, match=f"linear_w32: {message}"):
        ops.linear_w32(paddle.zeros(x), paddle.zeros(weight), None if bias is None else paddle.zeros(bias))
