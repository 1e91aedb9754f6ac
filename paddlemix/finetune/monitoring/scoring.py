"""Scores of generated answers: box recall at an IoU threshold, or exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.qwen_vl import grounding
from ...models.qwen_vl.grounding import Box, iou

MIN_IOU = 0.5
"""IoU from which a box counts as found."""


@dataclass(frozen=True)
class Score:
    """Counts over answers; scores add up.

    Attributes:
        boxes: expected boxes.
        found: those of them that were found.
        plain: expected answers without boxes.
        exact: exact matches among them.
    """

    boxes: int = 0
    found: int = 0
    plain: int = 0
    exact: int = 0

    def __add__(self, other: Score) -> Score:
        """The counts of both."""
        return Score(
            self.boxes + other.boxes, self.found + other.found, self.plain + other.plain, self.exact + other.exact
        )


def score(expected: str, answer: str) -> Score:
    """Score a generated answer.

    If boxes are expected, only they count; superfluous boxes cost nothing. Other answers must match exactly, tags and
    surrounding whitespace aside.

    Args:
        expected: the record's answer, with the model's tags.
        answer: the generated one.
    """
    boxes = grounding.parse(expected)
    if boxes:
        return Score(boxes=len(boxes), found=boxes_found(boxes, grounding.parse(answer)))
    return Score(plain=1, exact=int(grounding.strip(expected).strip() == grounding.strip(answer).strip()))


def boxes_found(expected: Sequence[Box], answered: Sequence[Box], min_iou: float = MIN_IOU) -> int:
    """The number of expected boxes that are matched by a different answered box each.

    Matching is greedy by descending IoU. Labels of a pair must agree, ignoring case, where both boxes have one.

    Args:
        expected: of the record.
        answered: of the generated answer.
        min_iou: of a match.
    """
    pairs = [
        (iou(a.corners, b.corners), i, j)
        for i, a in enumerate(expected)
        for j, b in enumerate(answered)
        if _may_be_same(a, b)
    ]
    taken: tuple[set[int], set[int]] = set(), set()
    for overlap, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= min_iou and i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
    return len(taken[0])


def _may_be_same(a: Box, b: Box) -> bool:
    return a.label is None or b.label is None or a.label.casefold() == b.label.casefold()
