"""MME: two questions about each image, scored alone and together.

Source: Fu et al., "MME" (2023), and the authors' calculation script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

Label = Literal["yes", "no", "other"]


def parse_label(response: str) -> Label:
    """The first four characters of a response decide: "Not sure" is a no, "**Yes**" neither."""
    start = response.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


@dataclass(frozen=True)
class CategoryScore:
    """Result of a category.

    Attributes:
        accuracy: right answers, 0 to 1.
        accuracy_plus: images of which both answers are right, 0 to 1.
        undecided: answers that are neither yes nor no.
    """

    accuracy: float
    accuracy_plus: float
    undecided: int

    @property
    def score(self) -> float:
        """Points, 0 to 200."""
        return 100 * self.accuracy + 100 * self.accuracy_plus


def category_score(pairs: Sequence[Sequence[tuple[str, str]]]) -> CategoryScore:
    """The score of a category; each image has the pairs of truth ("Yes" or "No") and response of its questions."""
    hits = [[parse_label(response) == truth.lower() for truth, response in pair] for pair in pairs]
    undecided = sum(parse_label(response) == "other" for pair in pairs for _, response in pair)
    accuracy = sum(map(sum, hits)) / sum(map(len, hits))
    return CategoryScore(accuracy, sum(map(all, hits)) / len(hits), undecided)
