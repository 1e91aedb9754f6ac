"""SEED-Bench: accuracy over questions, by dimension; and which frames of a video are shown.

Source: Li et al., "SEED-Bench" (2023), its first evaluator, and the original's frame sampler.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

LAST_IMAGE_DIMENSION = 9
DIMENSIONS = (
    "Scene Understanding",
    "Instance Identity",
    "Instance Attributes",
    "Instance Location",
    "Instances Counting",
    "Spatial Relation",
    "Instance Interaction",
    "Visual Reasoning",
    "Text Understanding",
    "Action Recognition",
    "Action Prediction",
    "Procedure Understanding",
)


def seed_hits(records: Iterable[tuple[int, bool]]) -> dict[str, list[bool]]:
    """``all``, ``image``, ``video`` and the number of each dimension -> its hits.

    Args:
        records: dimension, 1 to 12, and whether the question was answered right.
    """
    table: dict[str, list[bool]] = defaultdict(list)
    for dimension, hit in records:
        for name in ("all", "image" if dimension <= LAST_IMAGE_DIMENSION else "video", str(dimension)):
            table[name].append(hit)
    return dict(table)


def sample_frames(num_frames: int, num_segments: int) -> list[int]:
    """Indices of the frames that are shown: one of each segment, or all where there are fewer."""
    if num_segments > num_frames:
        return list(range(num_frames))
    step = (num_frames - 1) / num_segments
    start = int(step / 2)
    return [start + round(step * segment) for segment in range(num_segments)]
