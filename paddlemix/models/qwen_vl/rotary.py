"""Rotary tables and log-n factors, by position; those that were made last are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar

import numpy as np
import paddle

from ... import ops
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


def rotation_up_to(last: int, alphas: Sequence[float], config: QWenVLConfig, scale_queries: bool) -> Rotation:
    """Tables for positions up to ``last``, one for each of ``alphas``; query factors only where they are needed."""
    # Rounded up, so that a conversation of growing length reuses one table.
    length = -(-(last + 1) // 1024) * 1024
    place = paddle.get_device()
    bases = tuple(rotary_base(config, alpha) for alpha in alphas)
    cos, sin = rotary_tensors(length, config.kv_channels, bases, place)
    scaled = scale_queries and config.use_logn_attn and last >= config.seq_length
    return Rotation(cos, sin, logn_tensor(length, config.seq_length, place) if scaled else None)


def whole_rotation(alphas: Sequence[float], config: QWenVLConfig) -> Rotation:
    """Tables for all positions of the model's window, one for each of ``alphas``, and the query factors.

    Nothing depends on how far a row has come: a factor of 1 changes no bit of a query.
    """
    length, place = config.max_position_embeddings, paddle.get_device()
    bases = tuple(rotary_base(config, alpha) for alpha in alphas)
    cos, sin = rotary_tensors(length, config.kv_channels, bases, place)
    return Rotation(cos, sin, logn_tensor(length, config.seq_length, place) if config.use_logn_attn else None)


def rotary_base(config: QWenVLConfig, alpha: float) -> float:
    """The rotary base stretched by the NTK factor (``base * alpha ** (d / (d - 2))``)."""
    return float(config.rotary_emb_base * alpha ** (config.kv_channels / (config.kv_channels - 2)))


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
