"""Files for servers that keep the truth to themselves, checked before they are written."""

from __future__ import annotations

import csv
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from ..media.loading import check_header
from ..utils.dependencies import require
from ..utils.files import replacing, write_text
from .answers import chosen_option
from .metrics.gqa import shorten
from .metrics.grounding import SCALE, parse_box
from .metrics.mmbench import LETTERS, Row, submission_letters
from .records import Answer, Question

QWEN_VL_MILLIONS = 9_600
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")  # in a workbook's XML


def write_vqa(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """VQAv2 on EvalAI: ``[{"question_id": 1, "answer": "cat"}]``.

    Raises:
        EvaluationError: a question without an answer, or an id that is no number.
        OSError: the file cannot be written.
    """
    ids = [_number(question.metadata["question_id"], "question_id") for question in questions]
    texts = _texts(questions, answers)
    _write_json(path, [{"question_id": id_, "answer": text} for id_, text in zip(ids, texts)])


def write_vizwiz(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """VizWiz: ``[{"image": "VizWiz_test_00000000.jpg", "answer": "cat"}]``, each image once. Raises as above."""
    names = [str(question.metadata["image"]).rsplit("/", 1)[-1] for question in questions]
    _require_once(names, "image")
    _write_json(path, [{"image": name, "answer": text} for name, text in zip(names, _texts(questions, answers))])


def write_docvqa(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """DocVQA: ``[{"questionId": 1, "answer": "cat"}]``. Raises as above."""
    ids = [_number(question.metadata["question_id"], "question_id") for question in questions]
    texts = _texts(questions, answers)
    _write_json(path, [{"questionId": id_, "answer": text} for id_, text in zip(ids, texts)])


def write_gqa(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """GQA: ``[{"questionId": "1", "prediction": "cat"}]``, ids as texts. Raises as above."""
    texts = _texts(questions, answers)
    _write_json(path, [{"questionId": q.id, "prediction": shorten(text)} for q, text in zip(questions, texts)])


def write_seed_bench(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """SEED-Bench: JSON lines ``{"question_id": "1", "prediction": "A"}``. Raises as above."""
    chosen = _choices(questions, answers)
    lines = [json.dumps({"question_id": q.id, "prediction": LETTERS[option]}) for q, option in zip(questions, chosen)]
    write_text(path, "\n".join(lines) + "\n")


def write_mmbench(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """MMBench: a workbook with the table's columns but the image, and ``prediction``: one option for all rotations.

    Raises:
        MissingDependencyError: openpyxl is not installed.
        EvaluationError: a question without an answer, or only some rotations of one.
        OSError: the file cannot be written.
    """
    workbook = require("openpyxl", "MMBench's submission").Workbook(write_only=True)
    chosen = _choices(questions, answers)
    letters = submission_letters(
        Row(q.metadata["index"], q.metadata["choices"], None, option) for q, option in zip(questions, chosen)
    )
    columns = [column for column in questions[0].metadata["row"] if column != "image"]
    if "A" not in columns:
        raise EvaluationError("row: there are no columns A, B …; expected the published TSV beside the converted file")
    sheet = workbook.create_sheet("Sheet1")
    sheet.append([*columns, "prediction"])
    for question in questions:
        row = question.metadata["row"]
        sheet.append([*(_cell(sheet, row.get(column)) for column in columns), letters[question.metadata["index"]]])
    with replacing(path) as aside:
        workbook.save(aside)


def write_grit(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """GRIT: a zip of ``SPLIT/params.json`` and ``SPLIT/refexp.json``, boxes as whole pixels within the image.

    The confidence is the answer's probability, 1.0 where that is not known; the number of parameters is Qwen-VL's.
    Raises as :func:`write_vqa`.
    """
    predictions = []
    for question, text in zip(questions, _texts(questions, answers)):
        logprob = answers[question.id].logprob
        confidence = 1.0 if logprob is None else min(1.0, max(0.0, math.exp(min(0.0, logprob))))
        predictions.append({"example_id": question.id, "confidence": confidence, "bboxes": pixel_boxes(question, text)})
    _require_once([question.id for question in questions], "example_id")
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        folder = questions[0].split
        archive.writestr(f"{folder}/params.json", json.dumps({"params_in_millions": QWEN_VL_MILLIONS}))
        archive.writestr(f"{folder}/refexp.json", json.dumps(predictions))


def write_mme(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """MME: a zip of one file for each category, as the authors' script reads them. Raises as :func:`write_vqa`."""
    lines: dict[str, list[str]] = {}
    for question, text in zip(questions, _texts(questions, answers)):
        meta, asked = question.metadata, str(question.prompt[-1]).strip()
        fields = (meta["image"], asked, question.references[0], text)
        lines.setdefault(meta["category"], []).append("\t".join(fields))
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for category, rows in lines.items():
            archive.writestr(f"{category}.txt", "\n".join(rows) + "\n")


def write_touchstone(path: Path, questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    """TouchStone: the table that the authors' script reads, with the answers in ``response``. Raises as above."""
    _require_all(questions, answers)
    columns = ("question", "human_annotation", "gpt4_ha_answer", "category", "task_name")
    with replacing(path) as aside, open(aside, "x", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("index", *columns, "response"))
        for question in questions:
            writer.writerow((question.id, *(question.metadata[name] for name in columns), answers[question.id].text))


def pixel_boxes(question: Question, text: str) -> list[list[int]]:
    """The box of an answer in whole pixels of the question's image; none where the answer has none.

    Raises:
        ImageError: the image cannot be read.
    """
    corners, image = parse_box(text), question.image
    if corners is None or image is None:
        return []
    sides = check_header(image.path).size * 2
    return [[round(min(1.0, max(0.0, corner / SCALE)) * side) for corner, side in zip(corners, sides)]]


def _choices(questions: Sequence[Question], answers: Mapping[str, Answer]) -> list[int]:
    _require_all(questions, answers)
    chosen = [chosen_option(question, answers[question.id]) for question in questions]
    unread = [question.id for question, option in zip(questions, chosen) if option is None]
    if unread:
        raise EvaluationError(f"submission: {len(unread)} answers name no option, the first is that to {unread[0]}")
    return [option for option in chosen if option is not None]


def _texts(questions: Sequence[Question], answers: Mapping[str, Answer]) -> list[str]:
    """The answers in the order of the questions, each on one line."""
    _require_all(questions, answers)
    return [" ".join(answers[question.id].text.split()) for question in questions]


def _require_all(questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    missing = [question.id for question in questions if question.id not in answers]
    if missing or not questions:
        raise EvaluationError(
            f"submission: {len(missing)} of {len(questions)} questions have no answer, the first is "
            f"{(missing or ['none'])[0]!r}; servers refuse what is not complete: finish the run"
        )


def _require_once(values: Iterable[str], name: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise EvaluationError(f"submission: {name} {value!r} stands twice, expected once")
        seen.add(value)


def _number(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"submission: {name}: got {value!r}, expected a whole number") from error


def _cell(sheet: Any, value: Any) -> Any:
    """A cell that holds a text as it is: what begins with = would be read as a formula."""
    if not isinstance(value, str):
        return value
    cell = require("openpyxl", "MMBench's submission").cell.WriteOnlyCell(sheet, value=_ILLEGAL.sub("", value))
    if value.startswith("="):
        cell.data_type = "s"
    return cell


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")
