import numpy as np
import paddle
import pytest

from paddlemix import ops


def test_divides_by_the_root_of_the_mean_square():
    x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=16).astype(np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * weight
    actual = ops.rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), 1e-6)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_epsilon_counts_where_the_input_is_small(epsilon):
    x = paddle.full([1, 4], 1e-3)
    actual = ops.rms_norm(x, paddle.ones([4]), epsilon).numpy()
    np.testing.assert_allclose(actual, 1e-3 / np.sqrt(1e-6 + epsilon), rtol=1e-5)


def test_gradient_matches_finite_differences():
    x = paddle.to_tensor(np.random.default_rng(2).normal(size=(1, 4)), stop_gradient=False, dtype="float32")
    weight = paddle.to_tensor([1.0, -2.0, 0.5, 3.0])
    ops.rms_norm(x, weight, 1e-6).sum().backward()
    step = 1e-3
    for i in range(4):
        shift = np.zeros((1, 4), np.float32)
        shift[0, i] = step
        up, down = (ops.rms_norm(x.detach() + sign * paddle.to_tensor(shift), weight, 1e-6).sum() for sign in (1, -1))
        assert abs(float((up - down) / (2 * step)) - float(x.grad[0, i])) < 2e-3
