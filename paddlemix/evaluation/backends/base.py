"""What a run asks of whatever answers its questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..benchmarks import Generation
from ..records import Answer, Question

AHEAD = 256
"""Most questions asked beyond the oldest that is not answered yet: what a kill may cost."""


@dataclass(frozen=True)
class Failure:
    """A question that got no answer; a later run asks it again.

    Attributes:
        id: of the question.
        reason: one line.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Rates:
    """How long one question alone took.

    Attributes:
        new_image: seconds to the first token where the image comes for the first time.
        same_image: seconds to the first token where it was there before.
        token: seconds for each further token.
    """

    new_image: float
    same_image: float
    token: float

    def seconds(self, questions: int, images: int, tokens: float) -> float:
        """An estimate for a number of questions about a number of images, with a mean number of tokens."""
        again = max(0, questions - images)
        return images * self.new_image + again * self.same_image + questions * max(0.0, tokens - 1) * self.token


class Backend(Protocol):
    """Answers questions.

    Attributes:
        settings: of the model and what runs it, as far as they decide an answer.
        name: of the model, for tables.
    """

    settings: Mapping[str, Any]
    name: str

    def answers(self, questions: Iterable[Question], generation: Generation) -> Iterator[Answer | Failure]:
        """An answer or a failure for each question, in their order. Closing the iterator ends what is under way.

        Raises:
            EvaluationError: nothing can be answered any more.
        """
        ...

    def rates(self, questions: Sequence[Question], generation: Generation) -> Rates:
        """Measure with one or two questions about different images.

        Raises:
            EvaluationError: one could not be answered.
        """
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...
