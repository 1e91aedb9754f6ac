"""Rotary position embedding (Su et al., 2021), half-split: dimension ``i`` turns together with ``i + head_dim / 2``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle


@lru_cache(maxsize=8)
def rotary_tables(length: int, head_dim: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines for positions ``0 .. length - 1``: two float32 arrays ``[length, head_dim]``.

    Always float32, because a half-precision angle is wrong by whole turns at long range. The two halves of the last
    axis are equal, so that the rotation is ``x * cos + rotate_half(x) * sin``.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse_frequency = np.float32(1.0) / np.power(np.float32(base), exponent)
    angle = np.outer(np.arange(length, dtype=np.float32), inverse_frequency)
    angle = np.concatenate([angle, angle], axis=-1)
    return np.cos(angle), np.sin(angle)


def apply_rotary(x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    """Rotate ``x``, computing in float32 and returning the dtype of ``x``.

    Args:
        x: ``[batch, heads, length, head_dim]``.
        cos, sin: float32, ``[batch or 1, 1, length, head_dim]``.
    """
    x32 = x.astype("float32")
    first, second = paddle.chunk(x32, 2, axis=-1)
    rotated = x32 * cos + paddle.concat([-second, first], axis=-1) * sin
    return rotated.astype(x.dtype)
