"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import paddle


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """Return ``x / sqrt(mean(x²) + epsilon) * weight`` over the last axis.

    The statistics are float32 whatever the dtype; the result is cast back to the dtype of ``x`` before it meets the weight,
    as the original does.

    Args:
        x: ``[..., hidden]``.
        weight: ``[hidden]``.
    """
    x32 = x.astype("float32")
    scale = paddle.rsqrt(paddle.mean(x32 * x32, axis=-1, keepdim=True) + epsilon)
    return (x32 * scale).astype(x.dtype) * weight
