"""Root-mean-square normalization (Zhang and Sennrich, 2019), with the residual addition before it."""

from __future__ import annotations

from typing import Any

import paddle
from paddle.autograd import PyLayer

from .norm import normalize


def rms_norm(
    x: paddle.Tensor, weight: paddle.Tensor, epsilon: float, residual: paddle.Tensor | None = None
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return ``s / sqrt(mean(s²) + epsilon) * weight`` over the last axis, and ``s = x + residual``.

    The statistics are float32 whatever the dtype (float64 for float64); the normalized value is cast back to the dtype
    of ``x`` before it meets the weight, as the original does.

    Args:
        x: ``[..., hidden]``.
        weight: ``[hidden]``, of the dtype of ``x``.
        epsilon: added to the mean square.
        residual: like ``x``; without one, ``s`` is ``x`` itself.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    return normalize("rms_norm", x, {"weight": weight}, epsilon, residual, rms_norm_reference)


def rms_norm_reference(x: paddle.Tensor, weight: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """The same in plain Paddle, without the addition."""
    if paddle.is_grad_enabled() and not (x.stop_gradient and weight.stop_gradient):
        return _RMSNorm.apply(x, weight, epsilon)
    statistics = _statistics(x)
    return (statistics * _inverse_rms(statistics, epsilon)).astype(x.dtype) * weight


def _statistics(x: paddle.Tensor) -> paddle.Tensor:
    return x if x.dtype == paddle.float64 else x.astype("float32")


def _inverse_rms(x: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    return paddle.rsqrt(paddle.mean(x * x, axis=-1, keepdim=True) + epsilon)


class _RMSNorm(PyLayer):
    """The reference with its gradient written out.

    Composed from Paddle's operators, the gradient sums broadcast products in ways that its CPU kernels are slow at: it
    took ten times as long as the forward pass. Here the sums over rows are matrix products.
    """

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, epsilon: float) -> paddle.Tensor:
        statistics = _statistics(x)
        scale = _inverse_rms(statistics, epsilon)
        normalized = statistics * scale
        ctx.save_for_backward(normalized, scale, weight)
        ctx.wanted = (not x.stop_gradient, not weight.stop_gradient)
        return normalized.astype(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        normalized, scale, weight = ctx.saved_tensor()
        hidden = normalized.shape[-1]
        wide_grad = grad.astype(normalized.dtype)
        product = (wide_grad * normalized).reshape([-1, hidden])
        x_wanted, weight_wanted = ctx.wanted
        x_grad = weight_grad = None  # Paddle refuses a gradient for an input that has none, such as a frozen weight
        if weight_wanted:
            ones = paddle.ones([1, product.shape[0]], dtype=product.dtype)
            weight_grad = paddle.matmul(ones, product).reshape([hidden]).astype(weight.dtype)
        if x_wanted:
            # d/dx = scale * (g·w − normalized * mean(g·w·normalized))
            wide_weight = weight.astype(normalized.dtype)
            mean = paddle.matmul(product, wide_weight.reshape([hidden, 1])).reshape(scale.shape) / hidden
            x_grad = ((wide_grad * wide_weight - normalized * mean) * scale).astype(grad.dtype)
        return x_grad, weight_grad
