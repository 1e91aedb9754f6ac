"""Parts of a benchmark for several processes or machines, which need to know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import EvaluationError
from .records import Question
from .sampling import hash_order

_SHARD = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts. All questions about an image are in the same part.

    Attributes:
        index: from 1 to ``count``.
        count: parts.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise EvaluationError(
                f"shard: got {self.index}/{self.count}, expected 1/{self.count} to {self.count}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of a text such as ``3/8``.

        Raises:
            EvaluationError: another text.
        """
        found = _SHARD.fullmatch(text)
        if found is None:
            raise EvaluationError(f"shard: got {text!r}, expected INDEX/COUNT such as 3/8, counted from 1")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """The shard of a process that ``paddle.distributed.launch`` started; the whole without it.

        Raises:
            EvaluationError: its variables hold no numbers.
        """
        rank, size = environment.get("PADDLE_TRAINER_ID"), environment.get("PADDLE_TRAINERS_NUM")
        if rank is None or size is None:
            return cls()
        if not rank.isdecimal() or not size.isdecimal():
            raise EvaluationError(
                f"PADDLE_TRAINER_ID, PADDLE_TRAINERS_NUM: got {rank!r}, {size!r}, expected the numbers of a launcher"
            )
        return cls(int(rank) + 1, int(size))

    @property
    def is_whole(self) -> bool:
        """Whether this is everything."""
        return self.count == 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def select(self, questions: Iterable[Question]) -> list[Question]:
        """The questions of this part, by a hash of their image."""
        return [question for question in questions if self._number(image_of(question)) == self.index]

    def _number(self, image: str) -> int:
        return 1 + int.from_bytes(hash_order(0, image)[:8], "big") % self.count


def launched_device(environment: Mapping[str, str]) -> str | None:
    """The GPU that ``paddle.distributed.launch`` gave to this process; None without it, or on a CPU."""
    number = environment.get("FLAGS_selected_gpus", "")
    return f"gpu:{number}" if "PADDLE_TRAINER_ID" in environment and number.isdecimal() else None


def image_of(question: Question) -> str:
    """The name of the image that is asked about; the question's id where there is none."""
    return question.id if question.image is None else question.image.name


def by_image(questions: Iterable[Question]) -> list[Question]:
    """In the order of a run: all questions about an image in succession, so that its features and prefix are reused.

    Images come in the order of their hash, so that the first answers are a fair sample of all.
    """
    keys = {question.id: hash_order(1, image_of(question)) for question in questions}
    return sorted(questions, key=lambda question: keys[question.id])
