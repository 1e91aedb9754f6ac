"""From the packed projection to attention: bias, heads, rotary position embedding (Su et al., 2021), log-n scale.

The embedding is half-split: dimension ``i`` turns together with ``i + head_dim / 2``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

from ..errors import OperatorError
from . import backend
from .attention import split_heads
from .checks import (
    check_dtype,
    check_features,
    check_floating,
    check_index,
    check_optional,
    check_range,
    check_shape,
    check_tensors,
    integers,
)


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
        heads: number of attention heads.
        cos: float32 ``[tables, table_length, head_dim]``, each table as of ``rotary_tables``.
        sin: like ``cos``.
        positions: int32 ``[batch, length]``, below ``table_length``.
        logn: float32 ``[table_length]``: factor of the queries by position.
        table_index: int32 ``[batch]``, the table of each row; the first by default.

    Returns:
        query, key, value, each ``[batch, heads, length, head_dim]``. Gradients reach ``qkv`` and ``bias``.

    Raises:
        OperatorError: shapes, dtypes or indices do not fit.
    """
    if backend.use_kernel("rotary_qkv", qkv) and not (paddle.is_grad_enabled() and _is_empty(qkv)):
        if paddle.is_grad_enabled() and bias is not None and not getattr(bias, "stop_gradient", True):
            check_rotary(qkv, bias, heads, cos, sin, positions, logn, table_index)
            qkv, bias = qkv + bias, None  # Paddle sums the bias' gradient; the operator's own is that of qkv
        query, key, value = backend.run(
            "paddlemix_rotary_qkv", qkv, bias, cos, sin, positions, logn, table_index, heads
        )
        return query, key, value
    check_rotary(qkv, bias, heads, cos, sin, positions, logn, table_index)
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
    """Like ``rotary_qkv``, but keys and values go to their positions in a cache. It has no gradient.

    Args:
        qkv: as for ``rotary_qkv``.
        bias: as for ``rotary_qkv``.
        heads: as for ``rotary_qkv``.
        cos: as for ``rotary_qkv``.
        sin: as for ``rotary_qkv``.
        positions: as for ``rotary_qkv``.
        key_cache: contiguous ``[batch, heads, capacity, head_dim]``, or with a block table
            ``[blocks, heads, block_size, head_dim]``; written in place. Its dtype is that of ``qkv``, or on the CPU
            bfloat16.
        value_cache: like ``key_cache``.
        slots: int32 ``[batch]``: the cache position of the first new position of each row; the others follow.
        lengths: int32 ``[batch]``: how many of the new positions are real; the rest is not written, its queries are 0.
        block_table: int32 ``[batch, width]``: cache position ``s`` of row ``r`` is position ``s % block_size`` of the
            block ``block_table[r, s // block_size]``.
        logn: as for ``rotary_qkv``.
        table_index: as for ``rotary_qkv``.

    Returns:
        query ``[batch, heads, length, head_dim]``.

    Raises:
        OperatorError: shapes, dtypes or indices do not fit, or new positions do not fit into the cache.
    """
    if backend.use_kernel("rotary_qkv", qkv):
        check_tensors("rotary_qkv", key_cache=key_cache, value_cache=value_cache)
        if not (key_cache.is_contiguous() and value_cache.is_contiguous()):
            raise OperatorError("rotary_qkv: the caches must be contiguous, for they are written in place")
        return _write(
            *(qkv, bias, cos, sin, positions, key_cache, value_cache, slots),
            *(lengths, block_table, logn, table_index, heads),
        )
    check_rotary(qkv, bias, heads, cos, sin, positions, logn, table_index)
    with paddle.no_grad():
        check_cache(qkv, heads, key_cache, value_cache, slots, lengths, block_table)
        query, key, value = rotary_qkv_reference(
            qkv, bias, heads, cos, sin, positions, logn, table_index, lengths=lengths
        )
        write_cache_reference(key, value, key_cache, value_cache, slots, lengths, block_table)
    return query


@paddle.jit.not_to_static
def _is_empty(qkv: object) -> bool:
    """The kernel's gradient cannot tell an empty tensor from none."""
    return isinstance(qkv, paddle.Tensor) and 0 in qkv.shape


@paddle.jit.not_to_static
def _write(*arguments: object) -> paddle.Tensor:
    """The kernel's call; nothing is differentiated, not even caches that somebody wants gradients of."""
    if not paddle.in_dynamic_mode():
        return backend.run("paddlemix_rotary_qkv_cache", *arguments)[0]
    with paddle.no_grad():
        return backend.run("paddlemix_rotary_qkv_cache", *arguments)[0]


@paddle.jit.not_to_static
def check_rotary(qkv, bias, heads, cos, sin, positions, logn, table_index) -> None:
    """What the kernel checks of ``rotary_qkv``'s shapes and dtypes, for plain Paddle."""
    check_tensors("rotary_qkv", qkv=qkv, cos=cos, sin=sin, positions=positions)
    check_optional("rotary_qkv", bias=bias, logn=logn, table_index=table_index)
    if not paddle.in_dynamic_mode():
        return  # sizes are not known yet
    check_floating("rotary_qkv", "qkv", qkv)
    check_shape("rotary_qkv", "qkv", qkv, [None] * 3)
    batch, length, packed = qkv.shape
    if not isinstance(heads, int) or heads < 1 or packed % (6 * heads) or not packed:
        raise OperatorError(
            "rotary_qkv: the last axis of qkv must be 3 * heads * head_dim with an even head_dim, "
            f"got {packed} for {heads!r} heads"
        )
    check_shape("rotary_qkv", "cos", cos, [None, None, packed // (3 * heads)])
    check_shape("rotary_qkv", "sin", sin, cos.shape)
    check_features("rotary_qkv", qkv, packed, bias=bias)
    check_index("rotary_qkv", "positions", positions, [batch, length])
    if logn is not None:
        check_shape("rotary_qkv", "logn", logn, [cos.shape[1]])
    if table_index is not None:
        check_index("rotary_qkv", "table_index", table_index, [batch])
    for name, table in (("cos", cos), ("sin", sin), ("logn", logn)):
        if table is not None:
            check_dtype("rotary_qkv", name, table, paddle.float32)


@paddle.jit.not_to_static
def check_cache(qkv, heads, key_cache, value_cache, slots, lengths, block_table) -> None:
    """What the kernel checks of ``rotary_qkv_cache``'s caches and where the new positions go, for plain Paddle."""
    check_tensors("rotary_qkv", key_cache=key_cache, value_cache=value_cache, slots=slots)
    check_optional("rotary_qkv", lengths=lengths, block_table=block_table)
    if not paddle.in_dynamic_mode():
        return
    batch, length, packed = qkv.shape
    shape = [batch if block_table is None else None, heads, None, packed // (3 * heads)]
    check_shape("rotary_qkv", "key_cache", key_cache, shape)
    check_shape("rotary_qkv", "value_cache", value_cache, key_cache.shape)
    check_dtype("rotary_qkv", "key_cache", key_cache, qkv.dtype, paddle.bfloat16)
    check_dtype("rotary_qkv", "value_cache", value_cache, key_cache.dtype)
    check_index("rotary_qkv", "slots", slots, [batch])
    if lengths is not None:
        check_index("rotary_qkv", "lengths", lengths, [batch])
    if block_table is not None:
        check_index("rotary_qkv", "block_table", block_table, [batch, None])
    blocks, _, block_size, _ = key_cache.shape
    table = None if block_table is None else block_table.numpy().tolist()
    capacity = block_size * (1 if block_table is None else block_table.shape[1])
    for row, (start, count) in enumerate(zip(integers(slots), _counts(lengths, batch, length))):
        if count and (start < 0 or start + count > capacity):
            raise OperatorError(
                f"rotary_qkv: row {row} writes slots {start} to {start + count - 1}, the cache holds {capacity}"
            )
        if count and table is not None:
            for block in table[row][start // block_size : (start + count - 1) // block_size + 1]:
                if not 0 <= block < blocks:
                    raise OperatorError(f"rotary_qkv: block_table has {block}, expected 0 to {blocks - 1}")


def _counts(lengths: paddle.Tensor | None, batch: int, length: int) -> list[int]:
    """How many of the new positions of each row are real."""
    return [length] * batch if lengths is None else [min(max(count, 0), length) for count in integers(lengths)]


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
    check_range("rotary_qkv", "positions", positions, table_length)
    rows = positions
    if table_index is not None:
        check_range("rotary_qkv", "table_index", table_index, tables)
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
    starts = integers(slots)
    counts = _counts(lengths, batch, length)
    block_size = key_cache.shape[2]
    table = None if block_table is None else block_table.numpy().tolist()
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
                cache[target, :, offset : offset + taken] = source[row, :, done : done + taken]
                done += taken


def _apply_rotary(x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    """Rotate ``x``, computing in float32 (float64 for float64) and returning the dtype of ``x``.

    Args:
        x: ``[batch, heads, length, head_dim]``.
        cos: float32, ``[batch, 1, length, head_dim]`` or ``[length, head_dim]``; it gets no gradient.
        sin: like ``cos``.
    """
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _Rotary.apply(x, cos.detach(), sin.detach())
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
    def forward(ctx: Any, x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
        ctx.tables = cos, sin
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> paddle.Tensor:
        (grad,) = grads
        cos, sin = ctx.tables
        return _rotate(grad, cos, -sin)
