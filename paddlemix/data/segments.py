"""Several samples in one row: which positions may attend to which."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import paddle

Array = TypeVar("Array", np.ndarray, "paddle.Tensor")

SHARED = 0
"""Segment of the positions that every sample of the row attends to."""
PADDING = -1
"""Segment of padding."""


def visibility(segments: Array) -> Array:
    """Who may see whom, causality aside: bool ``[batch, length, length]`` from segments ``[batch, length]``.

    Padding sees itself only, which keeps its softmax finite. Segments that count from 1 share nothing. A Paddle tensor
    gives one, on its own device.
    """
    same = segments[:, :, None] == segments[:, None, :]
    shared = (segments[:, None, :] == SHARED) & (segments[:, :, None] != PADDING)
    return same | shared
