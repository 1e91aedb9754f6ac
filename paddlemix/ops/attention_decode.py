"""Attention of one step of generation: one to eight queries per row over the cache."""

from __future__ import annotations

from typing import Any

import paddle

from . import backend
from .attention_masks import AttentionPass
from .attention_prefill import attention_by_paddle, attention_reference, check_attention, wants_gradient

DECODE_MAX_QUERIES = 8
"""Most queries per row for which ``attention_decode`` is faster than ``attention_prefill``."""


def attention_decode(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    *,
    kv_lengths: paddle.Tensor,
    query_starts: paddle.Tensor | None = None,
    kv_starts: paddle.Tensor | None = None,
    block_table: paddle.Tensor | None = None,
    mask: paddle.Tensor | None = None,
    shared: AttentionPass | None = None,
) -> paddle.Tensor:
    """``attention_prefill`` for few queries: arguments, result and errors are the same.

    Cache positions are split among the processors, and each is read once for up to eight queries of its row. More
    queries are computed correctly as well, but slower than in ``attention_prefill``.
    """
    rest: dict[str, Any] = {"kv_lengths": kv_lengths, "query_starts": query_starts, "kv_starts": kv_starts}
    rest.update(block_table=block_table, mask=mask)
    if not backend.use_kernel("attention_decode", query) or wants_gradient(query, key, value):
        check_attention("attention_decode", query, key, value, **rest)
        attend = attention_by_paddle if backend.uses_paddle_kernels(query) else attention_reference
        return attend(query, key, value, **rest, shared=shared)
    return backend.run("paddlemix_attention_decode", query, key, value, *rest.values())[0]
