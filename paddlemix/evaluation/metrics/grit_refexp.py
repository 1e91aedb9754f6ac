"""GRIT referring expressions: hits by partition, and their aggregate.

Source: Gupta et al., "GRIT: General Robust Image Task Benchmark" (2022), and its metric code: the first box counts if
its IoU is above 0.5; the score is the mean over known and new sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

IOU_THRESHOLD = 0.5
DISTORTED = "_dist"
_EPSILON = 1e-6
_Z = 1.96


def refexp_hit(boxes: Sequence[Sequence[float]], truth: Sequence[float]) -> float:
    """1.0 where the first box overlaps the true one by more than half, else 0.0; boxes are x1, y1, x2, y2."""
    if not boxes:
        return 0.0
    first = boxes[0]
    overlap = (max(first[0], truth[0]), max(first[1], truth[1]), min(first[2], truth[2]), min(first[3], truth[3]))
    intersection = _area(overlap)
    union = _area(first) + _area(truth) - intersection + _EPSILON
    return float(intersection / union > IOU_THRESHOLD)


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def refexp_partitions(samples: Sequence[Mapping[str, Any]], hits: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Mean hits in percent and count of each partition; ``agg`` has the reported score and its 95 % bounds.

    Partitions of fewer than two samples are left out, and ``agg`` where a source is.

    Args:
        samples: with ``example_id`` (that of a distorted image ends in ``_dist``) and the flags ``is_new_source``,
            ``has_new_concept`` and ``is_distorted``.
        hits: by ``example_id``.
    """
    twins = {sample["example_id"].removesuffix(DISTORTED) for sample in samples if sample["is_distorted"]}
    parts: dict[str, list[float]] = {
        name: [] for name in ("sameSrc", "newSrc", "sameCpt", "newCpt", "dist", "undist", "deldist")
    }
    for sample in samples:
        id_ = sample["example_id"]
        if sample["is_distorted"]:
            parts["dist"].append(hits[id_])
            continue
        parts["newSrc" if sample["is_new_source"] else "sameSrc"].append(hits[id_])
        parts["newCpt" if sample["has_new_concept"] else "sameCpt"].append(hits[id_])
        if id_ in twins:
            parts["undist"].append(hits[id_])
            parts["deldist"].append(hits[id_] - hits[id_ + DISTORTED])
    parts = {name: [100 * value for value in part] for name, part in parts.items() if len(part) > 1}
    table = {name: {"mean": round(_mean(part), 4), "count": len(part)} for name, part in parts.items()}
    if "sameSrc" in parts and "newSrc" in parts:
        sources = [parts["sameSrc"], parts["newSrc"]]
        mean, margin = sum(map(_mean, sources)) / 2, _Z * math.sqrt(sum(map(_squared_error, sources))) / 2
        lower, upper = max(0.0, mean - margin), min(100.0, mean + margin)
        table["agg"] = {"mean": round(mean, 4), "lower": round(lower, 4), "upper": round(upper, 4)}
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean."""
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
