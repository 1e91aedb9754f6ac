"""Answers as JSON lines: each line is one answer and is written at once, so that a run may end at any moment.

The first line of a file holds the run's settings and sample: ``{"run": {"settings": {…}, "sample": {…}}}``; where a
later run goes on with another sample, such a line comes again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EvaluationError
from ..utils.files import open_regular, reason
from .line_writer import LineWriter
from .metrics.choice import choose
from .records import Answer
from .settings import Settings, check_same
from .shards import Shard

PATTERN = "answers*.jsonl"
"""The files of all shards of a run."""


def file_name(shard: Shard) -> str:
    """The name of a shard's file."""
    return "answers.jsonl" if shard.is_whole else f"answers-{shard.index}-of-{shard.count}.jsonl"


@dataclass(frozen=True)
class Stored:
    """What a file, or all files of a run, hold.

    Attributes:
        settings: of the run; None where there is no answer yet.
        sample: ``{"limit": …, "seed": …}`` of the latest run.
        answers: by question id, in the order of the file.
        notes: what was left out, a sentence each.
    """

    settings: Settings | None = None
    sample: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_file(path: Path) -> Stored:
    """The answers of one file; nothing of a file that is not there. A last line without an end is left out.

    Raises:
        EvaluationError: it cannot be read, a line is no answer, or two lines answer a question differently.
    """
    try:
        with open_regular(path) as file:
            data = file.readall()  # type: ignore[attr-defined]
    except FileNotFoundError:
        return Stored()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {reason(error)}") from error
    size = data.rfind(b"\n") + 1
    notes = (
        () if size == len(data) else (f"{path}: its last line is torn and was dropped; that question is asked again",)
    )
    settings: Settings | None = None
    sample: Mapping[str, Any] = {}
    answers: dict[str, Answer] = {}
    for number, line in enumerate(data[:size].split(b"\n")[:-1], start=1):
        record = _record(line, f"{path}:{number}")
        if isinstance(run := record.get("run"), dict):
            if settings is not None:
                check_same(settings, run.get("settings", {}), f"{path}:{number}")
            settings, sample = run.get("settings", {}), run.get("sample", {})
            continue
        try:
            answer = Answer.from_json(record)
        except EvaluationError as error:
            raise EvaluationError(f"{path}:{number}: {error}") from error
        _add(answers, answer, f"{path}:{number}")
    return Stored(settings, sample, answers, notes)


def read_folder(folder: Path) -> Stored:
    """The answers of all shards of a run.

    Raises:
        EvaluationError: as :func:`read_file`, or two files are of different runs.
    """
    settings: Settings | None = None
    sample: Mapping[str, Any] = {}
    answers: dict[str, Answer] = {}
    notes: list[str] = []
    for path in sorted(folder.glob(PATTERN)):
        stored = read_file(path)
        notes += stored.notes
        if stored.settings is None:
            if stored.answers:
                raise EvaluationError(
                    f"{path}: its first line does not say which run it is of; it is not of this program"
                )
            continue
        if settings is not None:
            check_same(settings, stored.settings, str(path))
        settings, sample = stored.settings, stored.sample
        for answer in stored.answers.values():
            _add(answers, answer, str(path))
    return Stored(settings, sample, answers, tuple(notes))


def _record(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{where}: is no JSON ({error}); the file is damaged: remove that line, and run again"
        ) from error
    if not isinstance(record, dict):
        raise EvaluationError(f"{where}: got {type(record).__name__}, expected a JSON object")
    return record


def _add(answers: dict[str, Answer], answer: Answer, where: str) -> None:
    """Keep an answer; the same one twice, as from shards of two divisions, is kept once."""
    before = answers.setdefault(answer.id, answer)
    if before.text != answer.text or _choice(before) != _choice(answer):
        raise EvaluationError(
            f"{where}: a second answer to question {answer.id!r}, {answer.text[:40]!r}, differs from the first, "
            f"{before.text[:40]!r}; remove one of the two files or lines"
        )


def _choice(answer: Answer) -> int | None:
    return choose(answer.losses) if answer.losses else None


class AnswerWriter:
    """Appends answers to a shard's file, of which it is the only writer.

    Args:
        folder: of the run; it is made if absent.
        shard: whose file.
        settings: of this run.
        sample: of this run.

    Raises:
        EvaluationError: the file is of a run with other settings, is damaged, or another process writes it.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, shard: Shard, settings: Settings, sample: Mapping[str, Any]) -> None:
        self._lines = LineWriter(folder / file_name(shard))
        self.path = self._lines.path
        try:
            stored = read_file(self.path)
            if stored.settings is not None:
                check_same(stored.settings, settings, str(self.path))
            if stored.settings is None or dict(stored.sample) != dict(sample):
                self._lines.append({"run": {"settings": settings, "sample": dict(sample)}})
        except BaseException:
            self.close()
            raise

    def write(self, answer: Answer) -> None:
        """Append an answer.

        Raises:
            OutputError: the disk is full, or the file cannot be written any more; what is in it stays whole.
        """
        self._lines.append(answer.to_json())

    def close(self) -> None:
        """Close the file; the next writer may have it."""
        self._lines.close()

    def __enter__(self) -> AnswerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
