"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer
from paddle.incubate.nn.functional import fused_rms_norm


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """Return ``x / sqrt(mean(x²) + epsilon) * weight`` over the last axis.

    The statistics are float32 whatever the dtype; the result is cast back to the dtype of ``x`` before it meets the
    weight, as the original does.

    Args:
        x: ``[..., hidden]``.
        weight: ``[hidden]``.
    """
    if paddle.is_grad_enabled() and not (x.stop_gradient and weight.stop_gradient):
        return _RMSNorm.apply(x, weight, epsilon)
    if x.dtype == weight.dtype == paddle.float32:
        # One kernel instead of eight, but without a gradient. It casts in another order, which float32 does not notice.
        return fused_rms_norm(x, weight, None, epsilon, begin_norm_axis=x.ndim - 1)[0]
    x32 = x.astype("float32")
    return (x32 * _inverse_rms(x32, epsilon)).astype(x.dtype) * weight


def _inverse_rms(x32: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    return paddle.rsqrt(paddle.mean(x32 * x32, axis=-1, keepdim=True) + epsilon)


class _RMSNorm(PyLayer):
    """The same with its gradient written out.

    Composed from Paddle's operators, the gradient sums broadcast products in ways that its CPU kernels are slow at: it
    took ten times as long as the forward pass. Here the sums over rows are matrix products.
    """

    @staticmethod
    def forward(ctx, x: paddle.Tensor, weight: paddle.Tensor, epsilon: float) -> paddle.Tensor:
        x32 = x.astype("float32")
        scale = _inverse_rms(x32, epsilon)
        normalized = x32 * scale
        ctx.save_for_backward(normalized, scale, weight)
        ctx.wanted = (not x.stop_gradient, not weight.stop_gradient)
        return normalized.astype(x.dtype) * weight

    @staticmethod
    def backward(ctx, grad: paddle.Tensor) -> tuple[paddle.Tensor | None, paddle.Tensor | None]:
        normalized, scale, weight = ctx.saved_tensor()
        hidden = normalized.shape[-1]
        grad32 = grad.astype("float32")
        product = (grad32 * normalized).reshape([-1, hidden])
        x_wanted, weight_wanted = ctx.wanted
        x_grad = weight_grad = None  # Paddle refuses a gradient for an input that has none, such as a frozen weight
        if weight_wanted:
            weight_grad = paddle.matmul(paddle.ones([1, product.shape[0]]), product).reshape([hidden])
            weight_grad = weight_grad.astype(weight.dtype)
        if x_wanted:
            # d/dx = scale * (g·w − normalized * mean(g·w·normalized))
            mean = paddle.matmul(product, weight.astype("float32").reshape([hidden, 1])).reshape(scale.shape) / hidden
            x_grad = ((grad32 * weight.astype("float32") - normalized * mean) * scale).astype(grad.dtype)
        return x_grad, weight_grad
