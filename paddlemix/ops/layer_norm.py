"""Layer normalization (Ba et al., 2016), with the residual addition before it."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ..errors import OperatorError
from .norm import normalize


def layer_norm(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor,
    epsilon: float,
    residual: paddle.Tensor | None = None,
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return ``(s - mean(s)) / sqrt(variance(s) + epsilon) * weight + bias`` over the last axis, and ``s``.

    ``s`` is ``x + residual``. The statistics are float32 whatever the dtype (float64 for float64).

    Args:
        x: ``[..., width]``, of at least two axes.
        weight: ``[width]``, of the dtype of ``x``.
        bias: like ``weight``.
        epsilon: added to the variance; 0 to 0.001.
        residual: like ``x``; without one, ``s`` is ``x`` itself.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    return normalize("layer_norm", x, {"weight": weight, "bias": bias}, epsilon, residual, layer_norm_reference)


def layer_norm_reference(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """The same in plain Paddle, without the addition.

    Raises:
        OperatorError: Paddle's operator takes no such shape or epsilon.
    """
    if x.ndim < 2:
        raise OperatorError(f"layer_norm: x must have at least two axes, got shape {list(x.shape)}")
    if not 0 <= epsilon <= 1e-3:
        raise OperatorError(f"layer_norm: epsilon must be from 0 to 0.001, got {epsilon!r}")
    if paddle.is_grad_enabled() and weight.stop_gradient and not x.stop_gradient:
        # Paddle's CPU kernel (3.3) leaves a frozen weight out of the gradient of x.
        return F.layer_norm(x, weight.shape, epsilon=epsilon) * weight + bias
    return F.layer_norm(x, weight.shape, weight, bias, epsilon)
