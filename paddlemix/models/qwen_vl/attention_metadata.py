"""Attention metadata of a pass, rotary tables among it; computed once for all decoder layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import NamedTuple, TypeVar, Union

import numpy as np
import paddle

from ... import ops
from ...ops import AttentionPass
from .configuration import QWenVLConfig

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Rotation:
    """Rotary tables and query factors, shared by all layers.

    Attributes:
        cos, sin: float32 ``[tables, table_length, head_dim]``; one table but for pages of several NTK factors.
        logn: float32 ``[table_length]``, factors for the queries by position; ``None`` where all are 1.
    """

    cos: paddle.Tensor
    sin: paddle.Tensor
    logn: paddle.Tensor | None


def rotation_up_to(last: int, ntk_alphas: Sequence[float], config: QWenVLConfig, scale_queries: bool) -> Rotation:
    """Tables for positions up to ``last``, one for each of ``ntk_alphas``; query factors only where they are needed."""
    # Rounded up, so that a conversation of growing length reuses one table.
    length = -(-(last + 1) // 1024) * 1024
    place = paddle.get_device()
    bases = tuple(rotary_base(config, ntk_alpha) for ntk_alpha in ntk_alphas)
    cos, sin = rotary_tensors(length, config.kv_channels, bases, place)
    scaled = scale_queries and config.use_logn_attn and last >= config.seq_length
    return Rotation(cos, sin, logn_tensor(length, config.seq_length, place) if scaled else None)


def whole_rotation(ntk_alphas: Sequence[float], config: QWenVLConfig) -> Rotation:
    """Tables for all positions of the model's window, one for each of ``ntk_alphas``, and the query factors.

    Nothing depends on how far a row has come: a factor of 1 changes no bit of a query.
    """
    length, place = config.max_position_embeddings, paddle.get_device()
    bases = tuple(rotary_base(config, ntk_alpha) for ntk_alpha in ntk_alphas)
    cos, sin = rotary_tensors(length, config.kv_channels, bases, place)
    return Rotation(cos, sin, logn_tensor(length, config.seq_length, place) if config.use_logn_attn else None)


def rotary_base(config: QWenVLConfig, ntk_alpha: float) -> float:
    """The rotary base stretched by the NTK factor (``base * ntk_alpha ** (d / (d - 2))``)."""
    return float(config.rotary_emb_base * ntk_alpha ** (config.kv_channels / (config.kv_channels - 2)))


def _kept(make: Callable[..., _Made]) -> Callable[..., _Made]:
    """Keep what the latest calls made, save while a program is traced: its values are of no use outside of it."""
    kept = lru_cache(maxsize=8)(make)

    @wraps(make)
    def call(*arguments: object) -> _Made:
        return kept(*arguments) if paddle.in_dynamic_mode() else make(*arguments)

    return paddle.jit.not_to_static(call)


@_kept
def rotary_tensors(
    length: int, head_dim: int, bases: tuple[float, ...], place: str
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Cosines and sines on ``place``, two float32 ``[len(bases), length, head_dim]``."""
    cosines, sines = zip(*(ops.rotary_tables(length, head_dim, base) for base in bases))
    return paddle.to_tensor(np.stack(cosines), place=place), paddle.to_tensor(np.stack(sines), place=place)


@_kept
def logn_tensor(length: int, seq_length: int, place: str) -> paddle.Tensor:
    """Query factors ``max(1, log(p + 1) / log(seq_length))`` by position ``p``, float32 ``[length]``."""
    factors = np.maximum(1.0, np.log(np.arange(length) + 1.0) / np.log(seq_length))
    return paddle.to_tensor(factors.astype(np.float32), place=place)


#: Attention scores of each head that a group of sequences may waste on padding. Padding costs more than calls of
#: operators: a pass over 1,024 positions in sequences of 20 to 200 took 167 ms with none at all, 173 ms with so much,
#: 203 ms with 2 ** 17.
PADDED_SCORES = 1 << 12


class PackedSequence(NamedTuple):
    """A packed sequence: positions ``start`` to before ``end`` of ``row``."""

    row: int
    start: int
    end: int


@dataclass(frozen=True)
class SequenceGroup:
    """Spans of about the same length, which attend together as the rows of one batch.

    Attributes:
        positions: int32 ``[sequences, longest]``, rows of the rotary tables.
        mask: additive float32 ``[longest, longest]``, causal: what stands behind a sequence's end is never seen.
    """

    positions: paddle.Tensor
    mask: paddle.Tensor


@dataclass(frozen=True)
class DenseAttention:
    """New positions see each other through one mask in memory: the form that has gradients and dropout.

    Attributes:
        positions: int32 ``[batch, length]``, rows of the rotary tables.
        mask: additive float32 ``[(batch, 1,) length, length]``, causal.
    """

    rotation: Rotation
    positions: paddle.Tensor
    mask: paddle.Tensor


@dataclass(frozen=True)
class PackedAttention:
    """Several conversations fill the rows; each is cut out of its row and sees itself only. It has gradients, too.

    Attributes:
        groups: the conversations, those of about one length together.
        gather_indices: int64 ``[n]``, flat indices into ``[batch, length]`` of the positions of all groups, a group
            behind the other; behind a sequence's end any position.
        restore_indices: int64 ``[batch * length]``, where each position stands in ``gather_indices``.
    """

    rotation: Rotation
    groups: tuple[SequenceGroup, ...]
    gather_indices: paddle.Tensor
    restore_indices: paddle.Tensor


@dataclass(frozen=True)
class CachedAttention:
    """New positions behind a contiguous cache, or without one, where it is empty; no gradients.

    Query ``t`` of row ``r`` has the cache position ``cache_positions[r] + t``. It sees the positions from
    ``kv_starts[r]`` to its own, with ``mask`` added to the scores where those two cannot say it.

    Attributes:
        positions: int32 ``[batch, length]``, rows of the rotary tables.
        cache_positions: int32 ``[batch]``, the cache position of each row's first new token.
        kv_lengths: int32 ``[batch]``, context lengths, the new tokens included.
        kv_starts: int32 ``[batch]``, first position that is no padding; ``None``: 0.
        mask: additive float32 ``[batch or 1, length, kv_length]`` or ``None``.
        shared: of all layers.
    """

    rotation: Rotation
    positions: paddle.Tensor
    cache_positions: paddle.Tensor
    kv_lengths: paddle.Tensor
    kv_starts: paddle.Tensor | None
    mask: paddle.Tensor | None
    shared: AttentionPass


@dataclass(frozen=True)
class PagedAttention:
    """New positions of unrelated rows, whose keys and values lie in blocks of a shared cache; no gradients.

    Attributes:
        positions: int32 ``[batch, length]``, rows of the rotary tables.
        cache_positions, kv_lengths: as in :class:`CachedAttention`.
        lengths: int32 ``[batch]``, how many of a row's new positions are real; ``None``: all of all rows.
        block_table: int32 ``[batch, width]``, the blocks of each row, in order.
        table_index: int32 ``[batch]``, the rotary table of each row; ``None``: there is only one.
        shared: of all layers; ``None`` where only the kernel computes.
    """

    rotation: Rotation
    positions: paddle.Tensor
    cache_positions: paddle.Tensor
    kv_lengths: paddle.Tensor
    lengths: paddle.Tensor | None
    block_table: paddle.Tensor
    table_index: paddle.Tensor | None
    shared: AttentionPass | None = None


AttentionMetadata = Union[DenseAttention, PackedAttention, CachedAttention, PagedAttention]


def attention_metadata(
    config: QWenVLConfig,
    batch: int,
    length: int,
    past: int,
    ntk_alpha: float,
    scale_queries: bool,
    padding_mask: paddle.Tensor | None,
    position_ids: paddle.Tensor | None,
    with_gradients: bool,
    dtype: paddle.dtype,
    sequences: Sequence[PackedSequence] | None = None,
) -> DenseAttention | PackedAttention | CachedAttention:
    """Metadata for ``length`` new positions of each of ``batch`` rows behind ``past`` cached ones.

    Args:
        config: the model's configuration.
        batch: number of rows.
        length: new positions of each.
        past: cached positions of each.
        ntk_alpha: NTK factor of the rotary base.
        scale_queries: whether log-n scaling applies.
        padding_mask: see ``visible_positions``.
        position_ids: int ``[batch, length]``; by default positions are counted with the padding, as in the original.
        with_gradients: whether the form with gradients is wanted.
        dtype: the model's dtype, whose lowest finite value masks.
        sequences: of conversations that share rows; they fill all rows, in order, and see themselves only.
    """
    cache_positions = paddle.full([batch], past, dtype="int32")
    if position_ids is not None:
        last = int(position_ids.max()) if length else 0
        positions = position_ids.astype("int32").expand([batch, length])
    elif length == 1:
        last, positions = past, cache_positions.unsqueeze(1)
    else:
        last = past + length - 1
        counted = np.arange(past, past + length, dtype=np.int32)
        positions = paddle.to_tensor(np.broadcast_to(counted, [batch, length]))
    rotation = rotation_up_to(last, (ntk_alpha,), config, scale_queries)
    if sequences is not None:
        return PackedAttention(rotation, *sequence_groups(sequences, positions, dtype))
    if with_gradients:
        return DenseAttention(rotation, positions, dense_mask(length, padding_mask, dtype))
    kv_starts, mask = visible_positions(padding_mask, batch, length, past, dtype)
    shared = AttentionPass(past + length, past)
    return CachedAttention(rotation, positions, cache_positions, cache_positions + length, kv_starts, mask, shared)


def paged_attention(
    config: QWenVLConfig,
    starts: np.ndarray,
    lengths: np.ndarray,
    block_table: np.ndarray,
    ntk_alphas: Sequence[float],
) -> PagedAttention:
    """Metadata for new positions of unrelated rows.

    Args:
        config: the model's configuration.
        starts: int32 ``[batch]``, cached positions of each row.
        lengths: int32 ``[batch]``, new positions of each row; the longest is the width of the pass.
        block_table: int32 ``[batch, width]``.
        ntk_alphas: the NTK factor of each row.
    """
    longest = int(lengths.max())
    known = sorted(set(ntk_alphas))
    indices = None if len(known) == 1 else np.array([known.index(factor) for factor in ntk_alphas], dtype=np.int32)
    cache_positions = paddle.to_tensor(starts)
    if longest == 1:  # a step of decoding, of which every call counts
        positions, kv_lengths = cache_positions.unsqueeze(1), cache_positions + 1
    else:
        positions = paddle.to_tensor(starts[:, None] + np.arange(longest, dtype=np.int32))
        kv_lengths = paddle.to_tensor(starts + lengths)
    return PagedAttention(
        rotation=rotation_up_to(int(starts.max()) + longest - 1, tuple(known), config, True),
        positions=positions,
        cache_positions=cache_positions,
        kv_lengths=kv_lengths,
        lengths=None if (lengths == longest).all() else paddle.to_tensor(lengths),
        block_table=block_table_tensor(block_table.tobytes(), block_table.shape, paddle.get_device()),
        table_index=None if indices is None else paddle.to_tensor(indices),
        shared=AttentionPass(int((starts + lengths).max()), int(starts[0]) if (starts == starts[0]).all() else None),
    )


@lru_cache(maxsize=8)
def block_table_tensor(table: bytes, shape: tuple[int, int], place: str) -> paddle.Tensor:
    """int32 ``shape`` on ``place``: a table stays the same for as many steps as a block has positions."""
    return paddle.to_tensor(np.frombuffer(table, dtype=np.int32).reshape(shape), place=place)


def sequence_groups(
    sequences: Sequence[PackedSequence], positions: paddle.Tensor, dtype: paddle.dtype
) -> tuple[tuple[SequenceGroup, ...], paddle.Tensor, paddle.Tensor]:
    """``groups``, ``gather_indices`` and ``restore_indices`` of ``PackedAttention``.

    Args:
        sequences: they fill all rows.
        positions: int32 ``[batch, length]``.
        dtype: the model's dtype, whose lowest finite value masks.
    """
    row_length = positions.shape[1]
    flat_positions = positions.numpy().reshape(-1)
    places = np.empty(flat_positions.size, dtype=np.int64)
    groups, parts, before = [], [], 0
    for members in grouped_by_length(sequences):
        longest = max(sequence.end - sequence.start for sequence in members)
        indices = np.empty([len(members), longest], dtype=np.int64)
        for index, (row, start, end) in enumerate(members):
            own = np.arange(row * row_length + start, row * row_length + end)
            indices[index] = own[0]
            indices[index, : len(own)] = own
            places[own] = before + index * longest + np.arange(len(own))
        before += indices.size
        parts.append(indices.reshape(-1))
        groups.append(SequenceGroup(paddle.to_tensor(flat_positions[indices]), dense_mask(longest, None, dtype)))
    return tuple(groups), paddle.to_tensor(np.concatenate(parts)), paddle.to_tensor(places)


def grouped_by_length(sequences: Sequence[PackedSequence]) -> list[list[PackedSequence]]:
    """The sequences in groups, the longest first; in none is more than ``PADDED_SCORES`` of each head padding."""
    groups: list[list[PackedSequence]] = []
    longest, padded = 0, 0
    for sequence in sorted(sequences, key=lambda sequence: sequence.start - sequence.end):
        length = sequence.end - sequence.start
        padded += longest**2 - length**2
        if not groups or padded > PADDED_SCORES:
            groups.append([])
            longest, padded = length, 0
        groups[-1].append(sequence)
    return groups


def visible_positions(
    padding_mask: paddle.Tensor | None, batch: int, length: int, past: int, dtype: paddle.dtype
) -> tuple[paddle.Tensor | None, paddle.Tensor | None]:
    """``kv_starts`` and ``mask`` of ``CachedAttention``: padding on the left needs only the first of them.

    Args:
        padding_mask: ``[batch, positions]`` of ones and zeros, or bool ``[batch, length, past + length]``
            (true: may be seen), with which several samples share a row. Positions behind its end may be seen.
        batch: rows.
        length: new positions of each row.
        past: positions in the cache.
        dtype: the model's dtype, whose lowest finite value is the mask.
    """
    if padding_mask is None:
        return None, None
    allowed = padding_mask.numpy().astype(bool)
    if allowed.ndim == 2:
        if allowed.all():
            return None, None
        if (allowed[:, 1:] >= allowed[:, :-1]).all() and allowed[:, -1].all():
            return paddle.to_tensor(allowed.argmax(axis=1).astype(np.int32)), None
        allowed = np.broadcast_to(allowed[:, None], [batch, length, allowed.shape[1]])
    allowed = allowed[:, :, : past + length]  # of a prompt that is fed in parts
    lowest = float(paddle.finfo(dtype).min)
    mask = np.zeros([*allowed.shape[:2], past + length], dtype=np.float32)
    mask[:, :, : allowed.shape[2]][~allowed] = lowest
    return None, paddle.to_tensor(mask)


def dense_mask(length: int, padding_mask: paddle.Tensor | None, dtype: paddle.dtype) -> paddle.Tensor:
    """The additive float32 mask ``[(batch, 1,) length, length]`` without a cache: causal, images included.

    Axes of 1 are left out: Paddle broadcasts several times faster over missing ones on a CPU.

    Args:
        length: of the rows.
        padding_mask: ``[batch, length]`` of ones and zeros, or bool ``[batch, length, length]`` (true: may be seen).
        dtype: the model's dtype, whose lowest finite value is the mask; a row without any visible key stays finite.
    """
    lowest = float(paddle.finfo(dtype).min)
    visible = paddle.to_tensor(np.tri(length, dtype=bool))
    if padding_mask is not None:
        allowed = padding_mask.astype("bool")
        if allowed.ndim == 2:
            allowed = allowed[:, None, :]
        visible = paddle.logical_and(visible, allowed)
        visible = visible[0] if visible.shape[0] == 1 else visible[:, None]
    return (1.0 - visible.astype("float32")) * lowest
