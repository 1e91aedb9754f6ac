"""GRIT referring expressions: hits by partition, and their aggregate.

Source: Gupta et al., "GRIT: General Robust Image Task Benchmark" (2022), and its metric code: the first box counts if
its IoU is above 0.5; the score is the mean over known and new sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

IOU_THRESHOLD = 0.5
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

    Args:
        samples: with ``example_id``, ``image_id``, ``task_query`` and the flags ``is_new_source``,
            ``has_new_concept`` and ``is_distorted``.
        hits: by ``example_id``.
    """
    distorted = {(sample["image_id"], sample["task_query"]) for sample in samples if sample["is_distorted"]}
    parts: dict[str, list[float]] = {
        name: [] for name in ("sameSrc", "newSrc", "sameCpt", "newCpt", "dist", "undist", "deldist")
    }
    for sample in samples:
        hit = hits[sample["example_id"]]
        if sample["is_distorted"]:
            parts["dist"].append(hit)
            continue
        parts["newSrc" if sample["is_new_source"] else "sameSrc"].append(hit)
        parts["newCpt" if sample["has_new_concept"] else "sameCpt"].append(hit)
        if (sample["image_id"], sample["task_query"]) in distorted:
            parts["undist"].append(hit)
    table = {name: {"mean": round(100 * _mean(part), 4), "count": len(part)} for name, part in parts.items() if part}
    if parts["dist"] and parts["undist"]:
        difference = 100 * (_mean(parts["undist"]) - _mean(parts["dist"]))
        table["deldist"] = {"mean": round(difference, 4), "count": len(parts["undist"])}
    sources = [parts[name] for name in ("sameSrc", "newSrc") if parts[name]]
    if sources:
        mean = sum(map(_mean, sources)) / len(sources)
        margin = _Z * math.sqrt(sum(map(_squared_error, sources))) / len(sources)
        values = {"mean": mean, "lower": mean - margin, "upper": mean + margin}
        table["agg"] = {name: round(100 * value, 4) for name, value in values.items()}
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean."""
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
