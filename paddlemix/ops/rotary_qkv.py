"""From the packed projection to attention: bias, heads, rotary position embedding (Su et al., 2021), log-n scale.

The embedding is half-split: dimension ``i`` turns together with ``i + head_dim / 2``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle
from paddle.autograd import PyLayer

from ..errors import OperatorError
from . import backend
from .attention import split_heads


@lru_cache(maxsize=8)
def rotary_tables(length: int, head_dim: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines for positions ``0 .. length - 1``: two float32 arrays ``[length, head_dim]``.

    Always float32, because a half-precision angle is wrong by whole turns at long range. The halves of the cosines are
    equal, those of the sines opposite, so that the rotation is ``x * cos + roll(x, head_dim / 2) * sin``.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse_frequency = np.float32(1.0) / np.power(np.float32(base), exponent)
    angle = np.outer(np.arange(length, dtype=np.float32), inverse_frequency)
    cos, sin = np.cos(angle), np.sin(angle)
    tables = np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)
    for table in tables:
        table.flags.writeable = False  # every caller gets the same arrays
    return tables


def rotary_qkv(
    qkv: paddle.Tensor,
    bias: paddle.Tensor | None,
    heads: int,
    cos: paddle.Tensor,
    sin: paddle.Tensor,
    positions: paddle.Tensor,
    *,
    logn: paddle.Tensor | None = None,
    table_index: paddle.Tensor | None = None,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Split a packed projection into rotated queries and keys, and values.

    The rotation is computed in float32 (float64 for float64). Indices are checked on the CPU; on CUDA, where that would
    mean to wait for the device, only their shapes are.

    Args:
        qkv: ``[batch, length, 3 * heads * head_dim]``: all queries, then all keys, then all values.
        bias: ``[3 * heads * head_dim]``, added first.
        cos, sin: float32 ``[tables, table_length, head_dim]``, each table as of ``rotary_tables``.
        positions: int32 ``[batch, length]``, below ``table_length``.
        logn: float32 ``[table_length]``: factor of the queries by position.
        table_index: int32 ``[batch]``, the table of each row; the first by default.

    Returns:
        query, key, value, each ``[batch, heads, length, head_dim]``. Gradients reach ``qkv`` and ``bias``.

    Raises:
        OperatorError: shapes, dtypes or indices do not fit.
    """
    if backend.use_kernel("rotary_qkv", qkv):
        if bias is not None and not bias.stop_gradient and paddle.is_grad_enabled():
            qkv, bias = qkv + bias, None  # Paddle sums the bias' gradient; the operator's own is that of qkv
        return tuple(backend.run("paddlemix_rotary_qkv", qkv, bias, cos, sin, positions, logn, table_index, heads))
    return rotary_qkv_reference(qkv, bias, heads, cos, sin, positions, logn, table_index)


def rotary_qkv_cache(
    qkv: paddle.Tensor,
    bias: paddle.Tensor | None,
    heads: int,
    cos: paddle.Tensor,
    sin: paddle.Tensor,
    positions: paddle.Tensor,
    key_cache: paddle.Tensor,
    value_cache: paddle.Tensor,
    slots: paddle.Tensor,
    *,
    lengths: paddle.Tensor | None = None,
    block_table: paddle.Tensor | None = None,
    logn: paddle.Tensor | None = None,
    table_index: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """Like ``rotary_qkv``, but keys and values go to their places in a cache. It has no gradient.

    Args:
        key_cache, value_cache: contiguous ``[batch, heads, capacity, head_dim]``, or with a block table
            ``[blocks, heads, block_size, head_dim]``; written in place. Their dtype is that of ``qkv``, or on the CPU
            bfloat16.
        slots: int32 ``[batch]``: where the first new position of each row goes; the others follow.
        lengths: int32 ``[batch]``: how many of the new positions are real; the rest is not written, its queries are 0.
        block_table: int32 ``[batch, width]``: slot ``s`` of row ``r`` is slot ``s % block_size`` of the block
            ``block_table[r, s // block_size]``.

    Returns:
        query ``[batch, heads, length, head_dim]``.

    Raises:
        OperatorError: shapes, dtypes or indices do not fit, or new positions do not fit into the cache.
    """
    if backend.use_kernel("rotary_qkv", qkv):
        if not (key_cache.is_contiguous() and value_cache.is_contiguous()):
            raise OperatorError("rotary_qkv: the caches must be contiguous, for they are written in place")
        return backend.run(
            "paddlemix_rotary_qkv_cache",
            *(qkv, bias, cos, sin, positions, key_cache, value_cache, slots),
            *(lengths, block_table, logn, table_index, heads),
        )[0]
    with paddle.no_grad():
        query, key, value = rotary_qkv_reference(
            qkv, bias, heads, cos, sin, positions, logn, table_index, lengths=lengths
        )
        write_cache_reference(key, value, key_cache, value_cache, slots, lengths, block_table)
    return query


def rotary_qkv_reference(
    qkv: paddle.Tensor,
    bias: paddle.Tensor | None,
    heads: int,
    cos: paddle.Tensor,
    sin: paddle.Tensor,
    positions: paddle.Tensor,
    logn: paddle.Tensor | None,
    table_index: paddle.Tensor | None,
    lengths: paddle.Tensor | None = None,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """``rotary_qkv`` in plain Paddle; positions beyond ``lengths`` are not looked at, and their queries are 0."""
    batch, length = positions.shape
    real = None
    if lengths is not None:
        real = paddle.arange(length, dtype="int32")[None, :] < lengths[:, None]
        positions = paddle.where(real, positions, paddle.zeros_like(positions))
    tables, table_length, head_dim = cos.shape
    _check_range("positions", positions, table_length)
    rows = positions
    if table_index is not None:
        _check_range("table_index", table_index, tables)
        rows = positions + table_index[:, None] * table_length
    # Paddle's CPU kernels broadcast several times faster over missing axes than over axes of 1.
    leading = [] if batch == 1 else [batch, 1]

    def by_position(table: paddle.Tensor, index: paddle.Tensor, width: int) -> paddle.Tensor:
        return paddle.gather(table.reshape([-1, width]), index.reshape([-1])).reshape([*leading, length, width])

    cos, sin = (by_position(table, rows, head_dim) for table in (cos, sin))
    if bias is not None:
        qkv = qkv + bias
    query, key, value = (split_heads(part, heads) for part in qkv.chunk(3, axis=-1))
    query, key = _apply_rotary(query, cos, sin), _apply_rotary(key, cos, sin)
    if logn is not None:
        query = query * by_position(logn, positions, 1).astype(query.dtype)
    if real is not None:
        query = paddle.where(real[:, None, :, None], query, paddle.zeros_like(query))
    return query, key, value


def write_cache_reference(
    key: paddle.Tensor,
    value: paddle.Tensor,
    key_cache: paddle.Tensor,
    value_cache: paddle.Tensor,
    slots: paddle.Tensor,
    lengths: paddle.Tensor | None = None,
    block_table: paddle.Tensor | None = None,
) -> None:
    """Write ``[batch, heads, length, head_dim]`` into the caches, see ``rotary_qkv_cache``."""
    batch, _, length, _ = key.shape
    starts = slots.tolist()
    counts = [length] * batch if lengths is None else [min(max(count, 0), length) for count in lengths.tolist()]
    block_size = key_cache.shape[2]
    table = None if block_table is None else block_table.tolist()
    capacity = block_size if table is None else block_table.shape[1] * block_size
    for row, (start, count) in enumerate(zip(starts, counts)):
        if count and (start < 0 or start + count > capacity):
            raise OperatorError(
                f"rotary_qkv: row {row} writes slots {start} to {start + count - 1}, the cache holds {capacity}"
            )
    for source, cache in ((key.astype(key_cache.dtype), key_cache), (value.astype(value_cache.dtype), value_cache)):
        if table is None and len(set(zip(starts, counts))) == 1:  # all rows alike: one copy
            cache[:, :, starts[0] : starts[0] + counts[0]] = source[:, :, : counts[0]]
            continue
        for row, (start, count) in enumerate(zip(starts, counts)):
            done = 0
            while done < count:
                block, offset = divmod(start + done, block_size)
                taken = min(count - done, block_size - offset)
                target = row if table is None else table[row][block]
                if not 0 <= target < cache.shape[0]:
                    raise OperatorError(f"rotary_qkv: block_table has {target}, expected 0 to {cache.shape[0] - 1}")
                cache[target, :, offset : offset + taken] = source[row, :, done : done + taken]
                done += taken


def _apply_rotary(x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    """Rotate ``x``, computing in float32 (float64 for float64) and returning the dtype of ``x``.

    Args:
        x: ``[batch, heads, length, head_dim]``.
        cos, sin: float32, ``[batch, 1, length, head_dim]`` or ``[length, head_dim]``; they get no gradient.
    """
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _Rotary.apply(x, cos, sin)
    return _rotate(x, cos, sin)


def _rotate(x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    dtype = x.dtype
    if dtype == paddle.float64:
        cos, sin = cos.astype(dtype), sin.astype(dtype)
    else:
        x = x.astype("float32")
    first, second = paddle.chunk(x, 2, axis=-1)
    return (x * cos + paddle.concat([second, first], axis=-1) * sin).astype(dtype)


class _Rotary(PyLayer):
    """The same with its gradient, the rotation back: it spares autograd's slow gradients of broadcast products."""

    @staticmethod
    def forward(ctx, x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
        ctx.tables = cos, sin
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: paddle.Tensor) -> tuple[paddle.Tensor, None, None]:
        cos, sin = ctx.tables
        return _rotate(grad, cos, -sin)


def _check_range(name: str, index: paddle.Tensor, limit: int) -> None:
    if not getattr(index, "place", None) or not index.place.is_cpu_place():  # traced, or the device would be waited for
        return
    values = index.numpy()
    outside = values[(values < 0) | (values >= limit)]
    if outside.size:
        raise OperatorError(f"rotary_qkv: {name} has {outside.flat[0]}, expected 0 to {limit - 1}")
