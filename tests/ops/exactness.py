"""How exact an operator must be, and how its gradients are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle


def assert_as_exact(fast: paddle.Tensor, reference: paddle.Tensor, exact: np.ndarray, allowance: float = 0.0) -> None:
    """The error of ``fast`` against float64 is at most twice that of the reference, plus rounding.

    Args:
        fast, reference: results in float32.
        exact: the same in float64.
        allowance: absolute error that the operator documents, such as the rounding of its activations.
    """
    exact = np.asarray(exact, np.float64)
    assert list(fast.shape) == list(exact.shape) and exact.size
    scale = np.abs(exact).max()
    error, limit = (np.abs(tensor.numpy().astype(np.float64) - exact).max() for tensor in (fast, reference))
    assert error <= 2 * limit + 4 * np.finfo(np.float32).eps * scale + allowance


def check_gradients(
    function: Callable[..., paddle.Tensor], inputs: Sequence[np.ndarray], frozen: Sequence[int] = ()
) -> None:
    """Compare the gradients of a random sum over ``function(*inputs)`` with central differences, in float64.

    Args:
        inputs: arrays, taken as float64 tensors; every element is varied, so they should be small.
        frozen: indices of inputs that want no gradient and must not get one.
    """
    arrays = [np.array(array, np.float64) for array in inputs]
    tensors = [paddle.to_tensor(array, stop_gradient=i in frozen) for i, array in enumerate(arrays)]
    output = function(*tensors)
    coefficients = np.random.default_rng(7).normal(size=output.shape)
    (output * paddle.to_tensor(coefficients)).sum().backward()

    def total(values: list[np.ndarray]) -> float:
        with paddle.no_grad():
            return float((function(*map(paddle.to_tensor, values)).numpy() * coefficients).sum())

    step = 1e-5
    for i, (array, tensor) in enumerate(zip(arrays, tensors)):
        if i in frozen:
            assert tensor.grad is None
            continue
        expected = np.empty_like(array)
        for index in np.ndindex(array.shape):
            original = array[index]
            array[index] = original + step
            up = total(arrays)
            array[index] = original - step
            expected[index] = (up - total(arrays)) / (2 * step)
            array[index] = original
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-5, atol=1e-6)
