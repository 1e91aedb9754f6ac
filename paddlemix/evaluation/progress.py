"""How far a run is, and its score so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from ..errors import EvaluationError
from .records import Answer, Score
from .tasks import Note, Task

_LINE_SECONDS = 30.0
"""Between two lines where there is no terminal."""
_SHARE = 0.02
"""Of the time, at most, goes into scores so far."""


class Progress:
    """A bar on a terminal, elsewhere a line every half minute.

    Args:
        task: whose questions are answered.
        answers: that are there; whoever answers adds to them.
        note: takes the lines.
    """

    def __init__(self, task: Task, answers: Mapping[str, Answer], note: Note) -> None:
        from tqdm import tqdm

        self._task = task
        self._answers = answers
        self._note = note
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._began = self._latest_line = time.monotonic()
        self._scored_at, self._cost = 0.0, 0.0
        self._at_start = self._done = len(answers)
        self._format = tqdm.format_meter
        self._bar = tqdm(
            total=len(task.questions),
            initial=self._done,
            desc=task.title,
            unit="q",
            file=sys.stderr,
            disable=not self._is_terminal,
            dynamic_ncols=True,
        )
        self._score = ""

    def advance(self) -> None:
        """One more is done, with an answer or without."""
        self._done += 1
        now = time.monotonic()
        if now - self._scored_at > self._cost / _SHARE and now - self._began > 1.0:
            self._score = score_so_far(self._task, self._answers)
            self._scored_at = time.monotonic()
            self._cost = max(self._scored_at - now, 0.01)
            self._bar.set_postfix_str(self._score, refresh=False)
        self._bar.update()
        if not self._is_terminal and now - self._latest_line > _LINE_SECONDS:
            self._latest_line = now
            self._note(self._line())

    def close(self) -> None:
        """The last line."""
        self._bar.close()
        if not self._is_terminal and self._done > self._at_start:
            self._note(self._line())

    def _line(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = (self._done - self._at_start) / max(elapsed, 1e-6)
        total = len(self._task.questions)
        line: str = self._format(
            self._done, total, elapsed, prefix=self._task.title, unit="q", rate=rate, ncols=0, initial=self._at_start
        )
        return f"{line} {self._score}".rstrip()


def score_so_far(task: Task, answers: Mapping[str, Answer]) -> str:
    """The score of the answers that are there, with its interval; empty where a part says nothing about the whole."""
    benchmark = task.benchmark
    if not benchmark.allows_samples or not benchmark.split(task.split).is_scored:
        return ""
    try:
        score = benchmark.score(task.questions, answers, partial=True)
    except EvaluationError:  # no group of questions is complete yet
        return ""
    return score_text(score)


def score_text(score: Score) -> str:
    """A score with its interval, as people write it."""
    unit = " %" if score.unit == "%" else ""
    if score.interval is None:
        return f"{score.value:.2f}{unit}"
    low, high = score.interval
    return f"{score.value:.2f}{unit} ({low:.1f} to {high:.1f})"
