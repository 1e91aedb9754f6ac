"""How near an answer comes to the expected one: boxes found, or the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.qwen_vl import grounding
from ...models.qwen_vl.grounding import Box, iou

LEAST_IOU = 0.5
"""Overlap from which a box counts as found."""


@dataclass(frozen=True)
class Score:
    """Of answers with boxes: how many were expected and found. Of others: how many there are, and are exactly right."""

    boxes: int = 0
    found: int = 0
    plain: int = 0
    exact: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.boxes + other.boxes, self.found + other.found, self.plain + other.plain, self.exact + other.exact
        )


def score(expected: str, answer: str) -> Score:
    """Compare an answer with the expected one, both as the model writes them.

    Where boxes are expected they alone count; an answer without any finds none, and boxes too many cost nothing. Other
    answers are right when they say the same, tags and surrounding space aside.
    """
    boxes = grounding.parse(expected)
    if boxes:
        return Score(boxes=len(boxes), found=boxes_found(boxes, grounding.parse(answer)))
    return Score(plain=1, exact=int(grounding.strip(expected).strip() == grounding.strip(answer).strip()))


def boxes_found(expected: Sequence[Box], answered: Sequence[Box], least_iou: float = LEAST_IOU) -> int:
    """How many expected boxes have an answered one of their own that overlaps them by ``least_iou``.

    Pairs are made greedily, the greatest overlap first. Labels of a pair must agree where both boxes have one.
    """
    pairs = [
        (iou(a.corners, b.corners), i, j)
        for i, a in enumerate(expected)
        for j, b in enumerate(answered)
        if _may_be_same(a, b)
    ]
    taken: tuple[set[int], set[int]] = set(), set()
    for overlap, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= least_iou and i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
    return len(taken[0])


def _may_be_same(a: Box, b: Box) -> bool:
    return a.label is None or b.label is None or a.label.casefold() == b.label.casefold()
