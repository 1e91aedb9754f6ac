"""Which questions, and which examples before them: by hashes, so that everyone gets the same."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import EvaluationError
from .records import Question

T = TypeVar("T")


def hash_order(seed: int, key: str) -> bytes:
    """What to sort by to draw without a state: depends on seed and key alone."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()


def sample(questions: Sequence[Question], limit: int, seed: int = 0) -> list[Question]:
    """``limit`` groups of questions in their order; a larger limit keeps those of a smaller one.

    Raises:
        EvaluationError: ``limit`` is not positive.
    """
    if limit < 1:
        raise EvaluationError(f"limit: got {limit}, expected at least 1")
    groups = {question.group or question.id for question in questions}
    kept = set(sorted(groups, key=lambda group: hash_order(seed, group))[:limit])
    return [question for question in questions if (question.group or question.id) in kept]


@dataclass
class Shots:
    """How many examples stand before a question, and how they are drawn.

    Attributes:
        count: examples for each question.
        seed: of the draw.
        as_original: one generator for all questions in order, without regard to images, as one process of the
            original draws; otherwise by a hash of seed and question id, never of the question's image.
    """

    count: int
    seed: int = 0
    as_original: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self, examples: Sequence[T], images: Sequence[str], question_id: str, image: str) -> list[T]:
        """The examples for a question.

        Args:
            examples: to draw from.
            images: the image of each example.
            question_id: of the question.
            image: of the question.

        Raises:
            EvaluationError: there are fewer than ``count`` to draw from.
        """
        if len(examples) < self.count:
            raise EvaluationError(f"shots: got {self.count}, expected at most the {len(examples)} training records")
        if self.as_original:
            return self._random.sample(examples, self.count)
        # A generator of the question's own; more are drawn than needed only where the image is met.
        generator = random.Random(hash_order(self.seed, question_id))
        drawn: dict[int, None] = {}
        for _ in range(100 * self.count + 1000):
            index = generator.randrange(len(examples))
            if images[index] != image:
                drawn[index] = None
            if len(drawn) == self.count:
                return [examples[index] for index in drawn]
        raise EvaluationError(f"shots: fewer than {self.count} training records are of another image than {image!r}")
