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


@pytest.mark.parametrize("frozen", [None, "input", "weight"])
def test_gradients_match_finite_differences(frozen):
    x, weight = np.random.default_rng(2).normal(size=(2, 2, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    coefficients = np.random.default_rng(3).normal(size=x.shape)

    def total(x, weight):
        return (x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight * coefficients).sum()

    tensors = {
        name: paddle.to_tensor(value, dtype="float32", stop_gradient=name == frozen)
        for name, value in (("input", x), ("weight", weight))
    }
    output = ops.rms_norm(tensors["input"], tensors["weight"], 1e-6)
    (output * paddle.to_tensor(coefficients, dtype="float32")).sum().backward()
    for name, value in (("input", x), ("weight", weight)):
        if name == frozen:
            assert tensors[name].grad is None
            continue
        step = 1e-6
        for index in np.ndindex(value.shape):
            original = value[index]
            value[index] = original + step
            up = total(x, weight)
            value[index] = original - step
            difference = (up - total(x, weight)) / (2 * step)
            value[index] = original
            assert float(tensors[name].grad.numpy()[index]) == pytest.approx(difference, abs=1e-4)
