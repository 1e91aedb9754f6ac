"""Scaled dot-product attention."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def attention(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    mask: paddle.Tensor | None = None,
    dropout: float = 0.0,
) -> paddle.Tensor:
    """Return ``softmax(query keyᵀ / sqrt(head_dim) + mask) value``, the softmax in float32 whatever the dtype.

    Heads come before positions, because Paddle's CPU matmul copies any other order first: on two cores that alone took
    thirty times as long as the attention of one decode step.

    Args:
        query: ``[batch, heads, length, head_dim]``.
        key, value: ``[batch, heads, kv_length, head_dim]``.
        mask: additive float32, broadcastable to ``[batch, heads, length, kv_length]``.
        dropout: probability with which an attention weight is dropped, in training.

    Returns:
        ``[batch, heads, length, head_dim]``.
    """
    scores = paddle.matmul(query * (query.shape[-1] ** -0.5), key, transpose_y=True).astype("float32")
    if mask is not None:
        scores = scores + mask
    weights = F.softmax(scores, axis=-1).astype(value.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return paddle.matmul(weights, value)
