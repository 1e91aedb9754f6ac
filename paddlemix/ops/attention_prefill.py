"""Attention of many queries over keys and values or a cache, without a gradient, and over the ViT's packed projection.

The decoder's training, which needs a gradient and dropout, uses ``attention``.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F

from ..errors import OperatorError
from . import backend
from .attention import attention, merge_heads, split_heads
from .attention_flash import can_flash, flash_prefill
from .attention_masks import AttentionPass, gathered_rows, masks_of
from .checks import (
    can_be_read,
    check_dtype,
    check_floating,
    check_index,
    check_optional,
    check_shape,
    check_tensors,
    integers,
    is_tensor,
)


def attention_prefill(
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
    """Return ``softmax(query keyᵀ / sqrt(head_dim) + mask) value``, the softmax in float32.

    Query ``t`` of row ``r`` has the cache position ``query_starts[r] + t`` and sees the positions ``s`` with
    ``kv_starts[r] <= s < kv_lengths[r]`` and, where ``query_starts`` is given (causal), ``s <= query_starts[r] + t``.
    One that sees nothing gives zeros.

    Tensors are best contiguous: Paddle copies views before it calls the kernel, so pass a whole cache, not a slice.
    The CPU's kernel has no gradient: where one is wanted, plain Paddle computes.

    Args:
        query: ``[batch, heads, length, head_dim]``; float32 on the CPU.
        key: ``[batch, heads, kv_length, head_dim]``, of the dtype of ``query``, on the CPU also bfloat16; with
            ``block_table`` ``[blocks, heads, block_size, head_dim]``.
        value: like ``key``.
        kv_lengths: int32 ``[batch]``: the context length of each row.
        query_starts: int32 ``[batch]``: the cache position of the first query of each row; None: not causal.
        kv_starts: int32 ``[batch]``: the first cache position that each row sees; None: 0.
        block_table: int32 ``[batch, blocks of a row]``: cache position ``s`` of row ``r`` is position
            ``s % block_size`` of block ``block_table[r, s // block_size]``.
        mask: additive float32 ``[batch or 1, length, kv_length]``, at least as wide as every length.
        shared: of a pass whose layers all have the same of these but queries, keys and values.

    Returns:
        ``[batch, length, heads * head_dim]``.

    Raises:
        OperatorError: shapes, dtypes, lengths or table do not fit.
    """
    rest: dict[str, Any] = {"kv_lengths": kv_lengths, "query_starts": query_starts, "kv_starts": kv_starts}
    rest.update(block_table=block_table, mask=mask)
    fused = backend.use_kernel("attention_prefill", query)
    if backend.uses_paddle_kernels(query):
        check_attention("attention_prefill", query, key, value, **rest)
        return attention_by_paddle(query, key, value, **rest, shared=shared)
    if not fused or wants_gradient(query, key, value):
        check_attention("attention_prefill", query, key, value, **rest)
        return attention_reference(query, key, value, **rest, shared=shared)
    return backend.run("paddlemix_attention_prefill", query, key, value, *rest.values())[0]


def attention_interleaved(qkv: paddle.Tensor, heads: int) -> paddle.Tensor:
    """Full attention over a packed projection ``[n, length, 3 * width]`` that is interleaved per head.

    Where a gradient is wanted it is computed as ``attention`` does.

    Args:
        qkv: the last axis is ``[q0 k0 v0 q1 k1 v1 …]``, each of ``width / heads`` elements.
        heads: number of attention heads.

    Returns:
        ``[n, length, width]``.

    Raises:
        OperatorError: the width does not fit.
    """
    check_tensors("attention_interleaved", qkv=qkv)
    check_floating("attention_interleaved", "qkv", qkv)
    if qkv.ndim != 3 or heads < 1 or qkv.shape[2] % (3 * heads) or not qkv.shape[2]:
        raise OperatorError(
            f"attention_interleaved: qkv has shape {list(qkv.shape)}, expected [n, length, 3 * heads * head_dim] with "
            f"{heads} heads"
        )
    fused = backend.use_kernel("attention_prefill", qkv)
    if backend.uses_paddle_kernels(qkv):
        n, length, packed = qkv.shape
        query, key, value = [part.reshape([n, length, heads, -1]) for part in _unpack(qkv, heads)]
        return F.scaled_dot_product_attention(query, key, value, training=False).reshape([n, length, packed // 3])
    if not fused or wants_gradient(qkv):  # the CPU's kernel has no gradient
        query, key, value = [split_heads(part, heads) for part in _unpack(qkv, heads)]
        return merge_heads(attention(query, key, value))
    return backend.run("paddlemix_attention_interleaved", qkv, heads)[0]


def wants_gradient(*tensors: paddle.Tensor) -> bool:
    """Whether a gradient is to reach one of these tensors."""
    return paddle.is_grad_enabled() and any(is_tensor(tensor) and not tensor.stop_gradient for tensor in tensors)


@paddle.jit.not_to_static
def check_attention(
    operator: str, query, key, value, *, kv_lengths, query_starts=None, kv_starts=None, block_table=None, mask=None
) -> None:
    """What the kernels of ``attention_prefill`` and ``attention_decode`` check, for plain Paddle.

    Lengths and tables are looked at where that is not to wait for a device.
    """
    check_tensors(operator, query=query, key=key, value=value, kv_lengths=kv_lengths)
    check_optional(operator, query_starts=query_starts, kv_starts=kv_starts, block_table=block_table, mask=mask)
    if not paddle.in_dynamic_mode():
        return  # sizes are not known yet
    check_floating(operator, "query", query)
    check_shape(operator, "query", query, [None] * 4)
    batch, heads, length, head_dim = query.shape
    check_shape(operator, "key", key, [batch if block_table is None else None, heads, None, head_dim])
    check_shape(operator, "value", value, key.shape)
    check_dtype(operator, "key", key, query.dtype, paddle.bfloat16)
    check_dtype(operator, "value", value, key.dtype)
    for name, index in (("kv_lengths", kv_lengths), ("query_starts", query_starts), ("kv_starts", kv_starts)):
        if index is not None:
            check_index(operator, name, index, [batch])
    if block_table is not None:
        check_index(operator, "block_table", block_table, [batch, None])
    if mask is not None:
        check_dtype(operator, "mask", mask, paddle.float32)
        check_shape(operator, "mask", mask, [1 if mask.ndim and mask.shape[0] == 1 else batch, length, None])
    if can_be_read(kv_lengths):
        _check_lengths(operator, key, kv_lengths, block_table, mask)


def _check_lengths(operator, key, kv_lengths, block_table, mask) -> None:
    blocks, _, block_size, _ = key.shape
    capacity = block_size * (1 if block_table is None else block_table.shape[1])
    table: Any = block_table.tolist() if block_table is not None and can_be_read(block_table) else None
    for row, slots in enumerate(integers(kv_lengths)):
        if not 0 <= slots <= capacity:
            raise OperatorError(
                f"{operator}: kv_lengths[{row}] is {slots}, expected 0 to {capacity}, what the cache holds"
            )
        if mask is not None and slots > mask.shape[2]:
            raise OperatorError(f"{operator}: kv_lengths[{row}] is {slots}, but mask covers {mask.shape[2]} slots")
        for page in range(-(-slots // block_size) if table is not None and block_size else 0):
            if not 0 <= table[row][page] < blocks:
                raise OperatorError(
                    f"{operator}: block_table[{row}, {page}] is {table[row][page]}, expected 0 to {blocks - 1}"
                )


def _unpack(qkv: paddle.Tensor, heads: int) -> list[paddle.Tensor]:
    """Query, key and value ``[n, length, width]``."""
    n, length, packed = qkv.shape
    parts = qkv.reshape([n, length, heads, 3, packed // (3 * heads)]).chunk(3, axis=3)
    return [part.reshape([n, length, packed // 3]) for part in parts]


def attention_reference(
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
    """``attention_prefill`` and ``attention_decode`` in plain Paddle."""
    batch, heads, length, head_dim = query.shape
    masks = None
    if 0 not in (batch, length, *key.shape):
        float32 = paddle.float32
        masks = masks_of(shared, query, key, kv_lengths, query_starts, kv_starts, block_table, mask, float32)
    if masks is None or not masks.rows.slots:
        return paddle.zeros([batch, length, heads * head_dim], dtype=query.dtype)
    key, value = (gathered_rows(cache, batch, masks.rows, query.dtype) for cache in (key, value))
    scores = paddle.matmul(query * (head_dim**-0.5), key, transpose_y=True).astype("float32") + masks.bias
    weights = F.softmax(scores, axis=-1)
    if masks.something is not None:
        weights = weights * masks.something.astype("float32")
    return merge_heads(paddle.matmul(weights.astype(query.dtype), value))


def attention_by_paddle(
    query, key, value, *, kv_lengths, query_starts, kv_starts, block_table, mask, shared=None
) -> paddle.Tensor:
    """``attention_prefill`` and ``attention_decode`` on a GPU without a kernel of ours: Paddle's own tiled kernels.

    Flash attention without a mask where that is possible, else with one. The call with a mask was tried on the CPU; no
    GPU with Paddle's build for it was at hand.
    """
    batch, heads, length, head_dim = query.shape
    if 0 in (batch, length, *key.shape):
        return paddle.zeros([batch, length, heads * head_dim], dtype=query.dtype)
    if can_flash(query, query_starts, kv_starts, mask, shared):
        return flash_prefill(query, key, value, kv_lengths, block_table, shared)
    masks = masks_of(shared, query, key, kv_lengths, query_starts, kv_starts, block_table, mask, query.dtype)
    if not masks.rows.slots:
        return paddle.zeros([batch, length, heads * head_dim], dtype=query.dtype)
    key, value = (gathered_rows(cache, batch, masks.rows, query.dtype) for cache in (key, value))
    query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=masks.bias, training=False)
    if masks.something is not None:
        out = out * masks.something.transpose([0, 2, 1, 3]).astype(out.dtype)
    return out.reshape([batch, length, heads * head_dim])
