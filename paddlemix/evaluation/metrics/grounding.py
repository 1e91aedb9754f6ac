"""Grounding (RefCOCO): the box in an answer, and whether it overlaps the true one by half.

Source: the original's evaluation, in float32 as there. Corners are written on a scale of 1000; the original divides
them by 999.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

SCALE = 1000
ORIGINAL_SCALE = 999
IOU_THRESHOLD = 0.5
_NUMBER = r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_BOX = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,?\s*\({_NUMBER},{_NUMBER}\)")
_ORIGINAL_BOX = re.compile(r"\((.*?)\),\((.*?)\)")

Corners = tuple[float, float, float, float]


def parse_box(answer: str) -> Corners | None:
    """The first box ``(x1,y1),(x2,y2)`` of an answer with its corners in order; None where there is none."""
    found = _BOX.search(answer)
    if found is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in found.groups())
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def parse_box_as_original(answer: str) -> Corners | None:
    """The first two bracketed texts with a comma between them, if each is two numbers; no space, no order."""
    found = _ORIGINAL_BOX.search(answer)
    if found is None:
        return None
    try:
        (x1, y1), (x2, y2) = ((float(number) for number in corner.split(",")) for corner in found.groups())
    except ValueError:
        return None
    return x1, y1, x2, y2


def box_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); NaN where both are empty."""
    size = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0)
    intersection = size[0] * size[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return float(intersection / (areas[0] + areas[1] - intersection))


def grounding_iou(
    answer: str, box: Sequence[float], width: float, height: float, *, as_original: bool = False
) -> float:
    """IoU of the box in an answer with the true one; 0 where there is no box to be read.

    Args:
        answer: the model's text.
        box: the true one, x1, y1, x2, y2 in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
        as_original: strict pattern, corners unordered, divided by 999.
    """
    corners = parse_box_as_original(answer) if as_original else parse_box(answer)
    scale = np.float32(ORIGINAL_SCALE if as_original else SCALE)
    with np.errstate(over="ignore", invalid="ignore"):
        given = np.array(corners or (0, 0, 0, 0), np.float32) / scale * np.array([width, height] * 2, np.float32)
        return box_iou(given, np.array(box, np.float32))


def is_hit(iou: float) -> bool:
    """Whether an IoU counts; NaN does not."""
    return iou >= IOU_THRESHOLD
