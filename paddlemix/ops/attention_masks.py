"""What attention in plain Paddle needs beside queries, keys and values: the same for all layers of a pass."""

from __future__ import annotations

from dataclasses import dataclass

import paddle


@dataclass(frozen=True)
class CacheRows:
    """Which positions of a cache are looked at.

    Attributes:
        slots: how many, those of the longest row.
        used: bool ``[batch, 1, slots, 1]``, the positions that any query of a row sees; others may hold anything, NaN
            included. ``None`` where all of them are seen.
        blocks: int32 ``[batch * blocks of a row]``, the block table with indices that exist, or ``None``.
    """

    slots: int
    used: paddle.Tensor | None
    blocks: paddle.Tensor | None


@dataclass(frozen=True)
class Masks:
    """Which cache positions each query sees.

    Attributes:
        rows: the positions that are looked at.
        bias: what is added to the scores, ``[batch, 1, length, slots]``: 0, -inf, and a mask's values.
        something: bool ``[batch, 1, length, 1]``, false for queries that see nothing, whose bias is 0 for a softmax of
            numbers; ``None`` where all see something.
    """

    rows: CacheRows
    bias: paddle.Tensor
    something: paddle.Tensor | None


@dataclass
class AttentionPass:
    """What all layers of a pass share of their attention.

    The kernels need none of it. Plain Paddle takes the masks that the first layer made, and no layer waits for a device
    to tell a length.

    Attributes:
        longest: most cache positions that a row sees, the new ones included; every row sees at least one.
        past: cache positions before the new ones, where all rows have the same number; ``None`` elsewhere.
        masks: what the first layer made.
        rows: likewise, where the kernels know the mask themselves.
    """

    longest: int
    past: int | None = None
    masks: Masks | None = None
    rows: CacheRows | None = None


def masks_of(
    shared: AttentionPass | None,
    query: paddle.Tensor,
    key: paddle.Tensor,
    kv_lengths: paddle.Tensor,
    query_starts: paddle.Tensor | None,
    kv_starts: paddle.Tensor | None,
    block_table: paddle.Tensor | None,
    mask: paddle.Tensor | None,
    dtype: paddle.dtype,
) -> Masks:
    """The masks of a pass, made where no layer did before.

    Args:
        shared: of the pass; without it the lengths are read from their device.
        query: see ``attention_prefill``, as the other arguments.
        key: of the layer.
        kv_lengths: of the pass, as all that follows.
        query_starts: or ``None``.
        kv_starts: or ``None``.
        block_table: or ``None``.
        mask: or ``None``.
        dtype: of the bias.
    """
    if shared is not None and shared.masks is not None:
        return shared.masks
    slots = key.shape[2] * (1 if block_table is None else block_table.shape[1])
    if shared is not None:
        slots = min(slots, shared.longest)
    elif paddle.in_dynamic_mode() and kv_lengths.shape[0]:  # a program that is being traced does not know the lengths
        slots = min(slots, int(kv_lengths.max()))
    bias, seen = _visible(query, slots, kv_lengths, query_starts, kv_starts, mask)
    something = used = None
    if shared is None or query_starts is None or kv_starts is not None or mask is not None:
        something = (bias > -float("inf")).any(axis=-1, keepdim=True)
        bias = paddle.where(something, bias, paddle.zeros([], dtype="float32"))
    if query.shape[0] > 1 or kv_starts is not None:
        used = seen.any(axis=1).reshape([query.shape[0], 1, slots, 1])
    rows = CacheRows(slots, used, _existing_blocks(key, block_table))
    made = Masks(rows, bias if dtype == paddle.float32 else bias.astype(dtype), something)
    if shared is not None:
        shared.masks = made
    return made


def causal_rows(
    shared: AttentionPass, key: paddle.Tensor, kv_lengths: paddle.Tensor, block_table: paddle.Tensor | None
) -> CacheRows:
    """The positions of a causal pass whose rows have no padding, found where no layer did before."""
    if shared.rows is None:
        used = None
        if kv_lengths.shape[0] > 1:  # a row may be shorter than the longest
            slot = paddle.arange(shared.longest, dtype="int32").reshape([1, 1, shared.longest, 1])
            used = slot < kv_lengths.reshape([-1, 1, 1, 1])
        shared.rows = CacheRows(shared.longest, used, _existing_blocks(key, block_table))
    return shared.rows


def _existing_blocks(key: paddle.Tensor, block_table: paddle.Tensor | None) -> paddle.Tensor | None:
    """The table, flat. Entries beyond a row's slots may hold anything; on a GPU nobody has looked at the others."""
    return None if block_table is None else block_table.flatten().clip(0, max(key.shape[0] - 1, 0))


def gathered_rows(cache: paddle.Tensor, batch: int, rows: CacheRows, dtype: paddle.dtype) -> paddle.Tensor:
    """Keys or values ``[batch, heads, slots, head_dim]`` in ``dtype`` of the positions that are looked at."""
    if rows.blocks is not None:
        heads, block_size, head_dim = cache.shape[1:]
        # not cache[blocks], which on a CPU has no bfloat16 where something is differentiated
        gathered = paddle.gather(cache, rows.blocks, axis=0).reshape([batch, -1, heads, block_size, head_dim])
        cache = gathered.transpose([0, 2, 1, 3, 4]).reshape([batch, heads, -1, head_dim])
    if cache.shape[2] != rows.slots:
        cache = cache[:, :, : rows.slots]
    if cache.dtype != dtype:
        cache = cache.astype(dtype)
    return cache if rows.used is None else paddle.where(rows.used, cache, paddle.zeros([], dtype=dtype))


def _visible(query, slots, kv_lengths, query_starts, kv_starts, mask) -> tuple[paddle.Tensor, paddle.Tensor]:
    """What is added to the scores, float32 ``[batch, 1, length, slots]``, and which slots may be seen at all."""
    batch, _, length, _ = query.shape
    slot = paddle.arange(slots, dtype="int32").reshape([1, 1, slots])
    seen = slot < kv_lengths.reshape([batch, 1, 1])
    if kv_starts is not None:
        seen = paddle.logical_and(seen, slot >= kv_starts.reshape([batch, 1, 1]))
    if query_starts is not None:
        position = query_starts.reshape([batch, 1, 1]) + paddle.arange(length, dtype="int32").reshape([1, length, 1])
        seen = paddle.logical_and(seen, slot <= position)
    seen = seen.expand([batch, length, slots])
    bias = paddle.where(seen, paddle.zeros([], dtype="float32"), paddle.full([], -float("inf"), dtype="float32"))
    if mask is not None:
        bias = bias + mask[:, :, :slots]
    return bias.unsqueeze(1), seen
