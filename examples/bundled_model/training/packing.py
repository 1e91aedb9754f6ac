"""Several conversations about the same image in one row, so that the image is encoded once for all of them.

The row begins with what they share (system message, image); each conversation follows as a branch that sees the
shared part and itself, never its neighbors, and whose positions continue the shared part's. Each branch therefore
gets exactly the logits that it would get alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddlemix.models.qwen_vl.vocabulary import IGNORE_INDEX

from .segments import PADDING, SHARED


@dataclass(frozen=True)
class TokenSpan:
    """Ids, and for each of them whether the model learns to produce it and how much that counts."""

    ids: list[int]
    weights: list[float]  # 0: not a target

    def __add__(self, other: TokenSpan) -> TokenSpan:
        return TokenSpan(self.ids + other.ids, self.weights + other.weights)


@dataclass(frozen=True)
class PackedRow:
    """One row: int64 arrays ``[length]`` (``weights`` float32). ``segments``: 0 shared, 1 … branches."""

    input_ids: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    position_ids: np.ndarray
    segments: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


def context(ids: Sequence[int]) -> TokenSpan:
    """Tokens that are given, not learned."""
    return TokenSpan(list(ids), [0.0] * len(ids))


def pack_branches(shared: TokenSpan, branches: Sequence[TokenSpan]) -> PackedRow:
    """Lay the branches out behind the shared part."""
    spans = [shared, *branches]
    ids = np.concatenate([np.asarray(span.ids, np.int64) for span in spans])
    weights = np.concatenate([np.asarray(span.weights, np.float32) for span in spans])
    segments = np.concatenate([np.full(len(span.ids), index, np.int64) for index, span in enumerate(spans)])
    start = len(shared.ids)
    positions = np.concatenate([np.arange(start), *(start + np.arange(len(branch.ids)) for branch in branches)])
    labels = np.where(weights > 0, ids, IGNORE_INDEX)
    return PackedRow(ids, labels, weights, positions.astype(np.int64), segments)


def pad_rows(rows: Sequence[PackedRow], pad_id: int) -> PackedRow:
    """Stack rows to ``[batch, longest]``, padded on the right."""
    length = max(map(len, rows))

    def stack(name: str, fill: float) -> np.ndarray:
        arrays = [getattr(row, name) for row in rows]
        return np.stack([np.pad(array, (0, length - len(array)), constant_values=fill) for array in arrays])

    return PackedRow(
        stack("input_ids", pad_id),
        stack("labels", IGNORE_INDEX),
        stack("weights", 0.0),
        stack("position_ids", 0),
        stack("segments", PADDING),
    )


def predicting_positions(labels: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each target is predicted: flat indices of the predicting positions and of their targets, both int64.

    A target at column ``t`` of ``[batch, length]`` is predicted at ``t - 1``, except for a branch's first token, whose
    predecessor in the conversation is the last shared token.
    """
    batch, target = np.nonzero(labels != IGNORE_INDEX)
    source = target - 1
    first = segments[batch, target] != segments[batch, np.maximum(source, 0)]
    last_shared = (segments == SHARED).sum(axis=1) - 1
    source = np.where(first, last_shared[batch], source)
    length = labels.shape[1]
    return (batch * length + source).astype(np.int64), (batch * length + target).astype(np.int64)
