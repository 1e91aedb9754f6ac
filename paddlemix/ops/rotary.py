"""Rotary position embedding (Su et al., 2021), half-split: dimension ``i`` turns together with ``i + head_dim / 2``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle
from paddle.autograd import PyLayer


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


def apply_rotary(x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    """Rotate ``x``, computing in float32 and returning the dtype of ``x``.

    Args:
        x: ``[batch, heads, length, head_dim]``.
        cos, sin: float32, ``[batch, 1, length, head_dim]`` or ``[length, head_dim]``; they get no gradient.
    """
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _Rotary.apply(x, cos, sin)
    return _rotate(x, cos, sin)


def _rotate(x: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    x32 = x.astype("float32")
    first, second = paddle.chunk(x32, 2, axis=-1)
    return (x32 * cos + paddle.concat([second, first], axis=-1) * sin).astype(x.dtype)


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
