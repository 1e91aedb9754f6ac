"""Scaled dot-product attention."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from . import backend


def attention(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    mask: paddle.Tensor | None = None,
    dropout: float = 0.0,
) -> paddle.Tensor:
    """Return ``softmax(query keyᵀ / sqrt(head_dim) + mask) value``, the softmax in float32 whatever the dtype.

    Heads come before positions, because Paddle's CPU matmul copies any other order first: on two cores that alone took
    thirty times as long as the attention of one decode step. ``split_heads`` and ``merge_heads`` go there and back. The
    scores are masked and normalized in place: to obtain new memory from the system costs more than the arithmetic.

    Args:
        query: ``[batch, heads, length, head_dim]``.
        key: ``[batch, heads, kv_length, head_dim]``.
        value: like ``key``.
        mask: additive float32, broadcastable to ``[batch, heads, length, kv_length]``, best without leading axes of 1.
        dropout: probability with which an attention weight is dropped, in training.

    Returns:
        ``[batch, heads, length, head_dim]``.
    """
    if backend.uses_paddle_kernels(query):  # which keep no scores for the gradient
        added = None if mask is None else mask.reshape([1] * (4 - mask.ndim) + mask.shape).astype(query.dtype)
        query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, added, dropout, training=dropout > 0)
        return out.transpose([0, 2, 1, 3])
    scores = paddle.matmul(query * (query.shape[-1] ** -0.5), key, transpose_y=True).astype("float32")
    if mask is not None:
        scores = scores.add_(mask)
    weights = F.softmax_(scores, axis=-1).astype(value.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return paddle.matmul(weights, value)


def split_heads(x: paddle.Tensor, heads: int) -> paddle.Tensor:
    """``[batch, length, heads * head_dim]`` to ``[batch, heads, length, head_dim]``, contiguous.

    Contiguous at once, because this is a permutation that Paddle copies fast; it does not recognize one any more when a
    view has been cut out of it, and copies that element by element.
    """
    batch, length, width = x.shape
    return x.reshape([batch, length, heads, width // heads]).transpose([0, 2, 1, 3]).contiguous()


def merge_heads(x: paddle.Tensor) -> paddle.Tensor:
    """``[batch, heads, length, head_dim]`` to ``[batch, length, heads * head_dim]``."""
    batch, heads, length, head_dim = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([batch, length, heads * head_dim])
