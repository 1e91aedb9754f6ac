"""Answers that another program wrote: the published scripts' result files, and those of others in the same forms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from ..utils.files import read_text
from .answer_files import AnswerWriter
from .benchmarks import get_benchmark
from .data.checks import sha256
from .data.files import MAX_DATA_BYTES, numbered, read_records, read_value
from .metrics.mmbench import LETTERS
from .records import Answer, Question
from .settings import benchmark_settings
from .shards import Shard

ID_FIELDS = ("question_id", "questionId", "image_id", "index", "example_id", "image", "id")
TEXT_FIELDS = ("answer", "caption", "prediction", "response", "text")


def import_answers(name: str, split: str | None, source: Path, data_dir: Path, output_dir: Path) -> Path:
    """Write a folder of answers, as a run does, from a result file.

    Args:
        name: of the benchmark.
        split: None: the default one.
        source: a JSON list or JSON lines of records with an id and an answer; for MME a directory with a text file for
            each category. Records without ids, or with ids that repeat, are in the order of the data file.
        data_dir: with the benchmark's files.
        output_dir: gets the folder.

    Returns:
        The folder.

    Raises:
        EvaluationError: a record has no answer, answers no question of the split, or answers one twice.
        OutputError: the folder cannot be written, or has other answers.
    """
    benchmark = get_benchmark(name)
    part = benchmark.split(split).name
    questions = benchmark.questions(data_dir, part)
    answers = _of_categories(source, questions) if source.is_dir() else _matched(_records(source), questions, source)
    settings = benchmark_settings(benchmark, part, questions, 0, 0, False)
    settings["imported"] = sha256(source)[:16] if source.is_file() else source.name
    folder = output_dir / f"{name}-{part}"
    with AnswerWriter(folder, Shard(), settings, {"limit": None, "seed": 0}) as writer:
        for answer in answers:
            writer.write(answer)
    return folder


def _records(source: Path) -> list[Mapping[str, Any]]:
    if source.suffix == ".jsonl":
        return [record.values for record in read_records(source)]
    value = read_value(source)
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise EvaluationError(f"{source}: expected a list of JSON objects, one for each answer")
    return value


def _matched(records: Sequence[Mapping[str, Any]], questions: Sequence[Question], source: Path) -> list[Answer]:
    """The records as answers: by their ids where all have one, else in order."""
    field = next((name for name in ID_FIELDS if all(name in record for record in records)), None)
    if field is None and len(records) != len(questions):
        raise EvaluationError(f"{source}: has {len(records)} records without ids, expected {len(questions)}, in order")
    # Where a data set repeats an id, its questions are numbered as well.
    ids = numbered([str(record[field]) for record in records]) if field else [question.id for question in questions]
    known = {question.id: question for question in questions}
    answers = []
    for number, (id_, record) in enumerate(zip(ids, records)):
        where = f"{source}, number {number}"
        if id_ not in known:
            plain = id_.rpartition("#")[0]
            wrong = f"answers {plain!r} again" if plain in known else f"{field} {id_!r} is no question of this split"
            raise EvaluationError(f"{where}: {wrong}; expected an answer for each of {len(questions)} questions, once")
        answers.append(Answer(id_, _text(record, known[id_], where)))
    return answers


def _text(record: Mapping[str, Any], question: Question, where: str) -> str:
    """The answer of a record; the number of an option becomes its letter."""
    value = next((record[name] for name in TEXT_FIELDS if name in record), None)
    if question.choices and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LETTERS):
        return LETTERS[value]
    if not isinstance(value, str):
        raise EvaluationError(f"{where}: got {json.dumps(record)[:80]}, expected a text under {', '.join(TEXT_FIELDS)}")
    return value


def _of_categories(source: Path, questions: Sequence[Question]) -> list[Answer]:
    """Answers of MME: lines of image, question, truth and response, in the order of the questions."""
    lines: dict[str, list[list[str]]] = {}
    answers = []
    for question in questions:
        category = question.metadata.get("category")
        if not isinstance(category, str) or "image" not in question.metadata:
            raise EvaluationError(f"{source}: is a directory, expected a file for {question.benchmark}")
        if category not in lines:
            text = read_text(source / f"{category}.txt", limit=MAX_DATA_BYTES, error=EvaluationError)
            lines[category] = [line.split("\t") for line in text.rstrip("\n").split("\n")][::-1]
        fields = lines[category].pop() if lines[category] else []
        if len(fields) != 4 or fields[0] != question.metadata["image"]:
            raise EvaluationError(
                f"{source / category}.txt: got {fields!r:.80} for question {question.id}, expected the line of "
                f"{question.metadata['image']} with image, question, truth and response"
            )
        answers.append(Answer(question.id, fields[3]))
    return answers
