"""Converted files, as the original reads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ....errors import EvaluationError
from ....utils.files import replacing


@dataclass(frozen=True)
class VqaRow:
    """A question with a short answer, before it is written.

    Attributes:
        question_id: as the data set has it.
        image: below the data directory, ``data/`` before it.
        question: text.
        answers: of all annotators, or all that are accepted; empty where the truth is hidden.
        kinds: ``question_type`` and ``answer_type`` where they are known.
    """

    question_id: int | str
    image: str
    question: str
    answers: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)


def _open(path: Path) -> TextIO:
    r"""A new text file; surrogates that stand alone, which UTF-8 does not have, become ``\ud800``, as JSON has them."""
    return open(path, "x", encoding="utf-8", errors="backslashreplace")


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines, all or none; returns how many.

    Raises:
        EvaluationError: there are none, or the file cannot be written.
    """
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside, _open(aside) as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
            if not count:
                raise EvaluationError(f"{path}: the source has no records for this file")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror}") from error
    return count


def write_value(path: Path, value: Any) -> None:
    """Write a JSON file. Raises EvaluationError: it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside, _open(aside) as file:
            json.dump(value, file, ensure_ascii=False)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror}") from error


def vqa_record(row: VqaRow, *, takes_all: bool = False) -> dict[str, Any]:
    """A converted record.

    ``takes_all``: every answer is accepted; otherwise the one that most annotators gave is the answer.
    """
    record: dict[str, Any] = {"image": row.image, "question": row.question, "question_id": row.question_id}
    if row.answers:
        record["answer"] = list(row.answers) if takes_all else Counter(row.answers).most_common(1)[0][0]
    return record


def write_annotated(data_dir: Path, files: Sequence[str], rows: Iterable[VqaRow]) -> int:
    """Records, and in the second file the answers of all annotators, numbered from 1: equal ones stay apart."""
    annotations: list[dict[str, Any]] = []

    def records() -> Iterator[dict[str, Any]]:
        for row in rows:
            yield vqa_record(row)
            if len(files) > 1:
                answers = [{"answer": answer, "answer_id": n} for n, answer in enumerate(row.answers, start=1)]
                annotations.append({"question_id": row.question_id, **row.kinds, "answers": answers})

    count = write_lines(data_dir / files[0], records())
    if len(files) > 1:
        write_value(data_dir / files[1], {"annotations": annotations})
    return count


def write_docvqa_truth(data_dir: Path, files: Sequence[str], rows: Iterable[VqaRow]) -> int:
    """Records, and in the second file the accepted answers."""
    kept = list(rows)
    if len(files) > 1:
        truth = [{"questionId": r.question_id, "question": r.question, "answers": list(r.answers)} for r in kept]
        write_value(data_dir / files[1], {"dataset_name": "docvqa", "data": truth})
    return write_lines(data_dir / files[0], (vqa_record(row, takes_all=True) for row in kept))
