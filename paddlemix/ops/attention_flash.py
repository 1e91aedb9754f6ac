"""Causal attention of a chunk of a prompt on a GPU, by Paddle's flash attention: no mask and no scores in memory.

Its causal form aligns the first query with the first key, so that it serves the first chunk of a prompt alone. A later
chunk is computed in two parts, the cached positions (all of them seen) and the new ones (causal), which the log-sum-exp
of their scores joins exactly.
"""

from __future__ import annotations

from functools import cache

import paddle
import paddle.nn.functional as F

from .attention_masks import AttentionPass, causal_rows, gathered_rows

DTYPES = (paddle.float16, paddle.bfloat16)
MOST_HEAD_DIM = 256


@cache
def has_flash_attention() -> bool:
    """Whether the current GPU is one that Paddle's flash attention runs on, of compute capability 8.0 or later."""
    return paddle.is_compiled_with_cuda() and paddle.device.cuda.get_device_capability()[0] >= 8


def can_flash(
    query: paddle.Tensor,
    query_starts: paddle.Tensor | None,
    kv_starts: paddle.Tensor | None,
    mask: paddle.Tensor | None,
    shared: AttentionPass | None,
) -> bool:
    """Whether :func:`flash_prefill` computes this: causal rows of one past length, in 16 bits, nothing masked."""
    return (
        shared is not None
        and shared.past is not None
        and query_starts is not None
        and kv_starts is None
        and mask is None
        and query.dtype in DTYPES
        and query.shape[3] <= MOST_HEAD_DIM
        and query.shape[3] % 8 == 0
        and shared.longest == shared.past + query.shape[2]
        and has_flash_attention()
    )


def flash_prefill(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    kv_lengths: paddle.Tensor,
    block_table: paddle.Tensor | None,
    shared: AttentionPass,
) -> paddle.Tensor:
    """``attention_prefill`` where :func:`can_flash` says so; what a padded query gives is some number."""
    batch, heads, length, head_dim = query.shape
    rows = causal_rows(shared, key, kv_lengths, block_table)
    query = query.transpose([0, 2, 1, 3])
    key, value = (gathered_rows(x, batch, rows, query.dtype).transpose([0, 2, 1, 3]) for x in (key, value))
    past = shared.past
    if not past or length == 1:  # one query sees every position of its row
        out, _ = flash_attention(query, key, value, causal=length > 1)
    else:
        cached, cached_lse = flash_attention(query, key[:, :past], value[:, :past], causal=False)
        new, new_lse = flash_attention(query, key[:, past:], value[:, past:], causal=True)
        share = F.sigmoid(cached_lse - new_lse)
        out = (cached.astype("float32") * share + new.astype("float32") * (1 - share)).astype(query.dtype)
    return out.reshape([batch, length, heads * head_dim])


def flash_attention(
    query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, *, causal: bool
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Attention ``[batch, length, heads, head_dim]`` and the log-sum-exp of its scores, float32.

    Args:
        query: ``[batch, length, heads, head_dim]``.
        key: ``[batch, kv_length, heads, head_dim]``.
        value: like ``key``.
        causal: query ``t`` sees keys up to ``t``.

    Returns:
        The attention, and ``[batch, length, heads, 1]``.
    """
    out, lse = F.flashmask_attention(query, key, value, causal=causal, return_softmax_lse=True, training=False)
    # [batch, heads, length]; the kernel rounds the length up to a multiple of 128.
    return out, lse[:, :, : query.shape[1]].transpose([0, 2, 1]).unsqueeze(-1)
