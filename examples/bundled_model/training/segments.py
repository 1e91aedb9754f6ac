"""Segment ids of rows that several samples share: which positions may attend to which."""

from __future__ import annotations

import numpy as np

from paddlemix.data.collation import PADDING_SEGMENT as PADDING

SHARED = 0
"""Segment of the positions that every sample of the row attends to."""


def visibility(segments: np.ndarray) -> np.ndarray:
    """The attention mask of packed rows, causality aside.

    Args:
        segments: int64 ``[batch, length]``: ``SHARED``, a sample's number from 1, or ``PADDING``.

    Returns:
        bool ``[batch, length, length]``, true where a query may see a key. Padding sees itself only, which keeps its
        softmax finite.
    """
    same = segments[:, :, None] == segments[:, None, :]
    shared = (segments[:, None, :] == SHARED) & (segments[:, :, None] != PADDING)
    return same | shared
