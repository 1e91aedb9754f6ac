"""A backend without a model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from paddlemix.evaluation.backends.base import Failure, Rates
from paddlemix.evaluation.benchmarks import Generation
from paddlemix.evaluation.records import Answer, Question


class FakeBackend:
    """Answers ``10`` to every second question.

    Args:
        dies_after: this process is killed after so many answers.
        fails: ids of questions without an answer.
        settings: of the "model".
    """

    name = "fake"

    def __init__(
        self, *, dies_after: int | None = None, fails: Sequence[str] = (), settings: Mapping[str, Any] = {}
    ) -> None:
        self.settings = {"model": "fake", **settings}
        self.asked: list[str] = []
        self._dies_after = dies_after
        self._fails = fails

    def answers(self, questions: Iterable[Question], generation: Generation) -> Iterator[Answer | Failure]:
        for number, question in enumerate(questions):
            if number == self._dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked.append(question.id)
            if question.id in self._fails:
                yield Failure(question.id, "the image is damaged")
            else:
                yield Answer(question.id, "10" if int(question.id[1:]) % 2 else "no", 1)

    def rates(self, questions: Sequence[Question], generation: Generation) -> Rates:
        return Rates(2.0, 1.0, 0.5)

    def close(self) -> None:
        self.asked.append("closed")
