"""Data sets with short answers, from the files of their authors."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ....errors import EvaluationError
from ....utils.files import read_text
from ..files import MAX_DATA_BYTES, PREFIX, Record, read_list, read_value
from .write import VqaRow

PrimaryReader = Callable[[Path, str], Iterator[VqaRow]]
"""(directory of the authors' files, split) -> rows."""

_COCO = {"val": "val2014", "train": "train2014", "test-dev": "test2015"}
_PARTS = {"val": "val2014", "train": "train2014", "test-dev": "test-dev2015"}


def coco_image(split: str, image_id: int) -> str:
    """The image's name in the folders of COCO."""
    folder = _COCO[split]
    return f"{PREFIX}coco/{folder}/COCO_{folder}_{image_id:012}.jpg"


def read_vqav2(source: Path, split: str) -> Iterator[VqaRow]:
    """VQAv2: questions, and the annotations of parts that have them."""
    return _mscoco(source, split, "v2_OpenEnded_mscoco", "v2_mscoco")


def read_okvqa(source: Path, split: str) -> Iterator[VqaRow]:
    """OK-VQA."""
    return _mscoco(source, split, "OpenEnded_mscoco", "mscoco")


def _mscoco(source: Path, split: str, questions: str, annotations: str) -> Iterator[VqaRow]:
    truth: dict[str, Record] = {}
    has_truth = split != "test-dev"
    if has_truth:
        records = read_list(source / f"{annotations}_{_PARTS[split]}_annotations.json", "annotations")
        truth = {record.id("question_id"): record for record in records}
    for record in read_list(source / f"{questions}_{_PARTS[split]}_questions.json", "questions"):
        id_ = record.id("question_id")
        if has_truth and id_ not in truth:
            raise EvaluationError(f"{record.where}: question {id_} has no annotation; expected files of the same part")
        image = coco_image(split, record.index("image_id", 10**12))
        answers, kinds = annotated(truth[id_]) if has_truth else ((), {})
        yield VqaRow(record.values["question_id"], image, record.text("question"), answers, kinds)


def annotated(record: Record) -> tuple[tuple[str, ...], dict[str, str]]:
    """The answers of all annotators, as texts or ``{"answer": text}``, and the kinds of question and answer."""
    answers = record.values.get("answers")
    if not isinstance(answers, list) or not answers:
        raise record.error("answers", "a list of the annotators' answers")
    texts = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    if any(not isinstance(text, str) for text in texts):
        raise record.error("answers", "texts")
    kinds = {name: str(record.values[name]) for name in ("question_type", "answer_type") if record.values.get(name)}
    return tuple(map(str, texts)), kinds


def read_textvqa(source: Path, split: str) -> Iterator[VqaRow]:
    """TextVQA."""
    for record in read_list(source / f"TextVQA_0.5.1_{split}.json", "data"):
        image = f"{PREFIX}textvqa/train_images/{record.text('image_id')}.jpg"
        record.id("question_id")
        yield VqaRow(record.values["question_id"], image, record.text("question"), *annotated(record))


def read_vizwiz(source: Path, split: str) -> Iterator[VqaRow]:
    """VizWiz: an image a question; the test part's ids are the images' names."""
    for number, record in enumerate(read_list(source / f"{split}.json")):
        name = record.text("image")
        image = f"{PREFIX}vizwiz/{split}/{name}"
        answers, kinds = annotated(record) if split != "test" else ((), {})
        yield VqaRow(name if split == "test" else number, image, record.text("question"), answers, kinds)


def read_docvqa(source: Path, split: str) -> Iterator[VqaRow]:
    """DocVQA."""
    path = source / split / f"{split}_v1.0.json"
    for record in read_list(path if path.is_file() else source / path.name, "data"):
        image = f"{PREFIX}docvqa/{split}/{record.text('image')}"
        answers = record.texts("answers") if split != "test" else ()
        record.id("questionId")
        yield VqaRow(record.values["questionId"], image, record.text("question"), answers)


def read_chartqa(source: Path, split: str) -> Iterator[VqaRow]:
    """ChartQA: ``split`` is ``test_human``, ``test_augmented`` and so on."""
    part = split.split("_")[0]
    for number, record in enumerate(read_list(source / f"{split}.json")):
        image = f"{PREFIX}chartqa/{part}/png/{record.text('imgname')}"
        yield VqaRow(number, image, record.text("query"), record.texts("label"))


def read_gqa(source: Path, split: str) -> Iterator[VqaRow]:
    """GQA: the balanced questions of a part."""
    path = source / f"{split}_balanced_questions.json"
    for id_, values in _object(path).items():
        record = Record(values, f"{path}, question {id_}")
        image = f"{PREFIX}gqa/images/{record.text('imageId')}.jpg"
        yield VqaRow(id_, image, record.text("question"), record.texts("answer"))


_OCRVQA_SPLITS = {"train": 1, "val": 2, "test": 3}


def read_ocrvqa(source: Path, split: str) -> Iterator[VqaRow]:
    """OCR-VQA: several questions about each book cover."""
    path = source / "dataset.json"
    for id_, values in _object(path).items():
        record = Record(values, f"{path}, book {id_}")
        if record.values.get("split") != _OCRVQA_SPLITS[split]:
            continue
        suffix = PurePosixPath(record.text("imageURL")).suffix or ".jpg"
        questions, answers = record.texts("questions"), record.texts("answers")
        if len(questions) != len(answers):
            raise record.error("answers", f"one for each of {len(questions)} questions")
        for number, (question, answer) in enumerate(zip(questions, answers)):
            yield VqaRow(f"{id_}_{number}", f"{PREFIX}ocrvqa/images/{id_}{suffix}", question, (answer,))


def read_ai2d(source: Path, split: str) -> Iterator[VqaRow]:
    """AI2D: questions about diagrams, answered by the text of an option; the test part is a list of images."""
    listed = read_text(source / "ai2d_test_ids.csv", limit=MAX_DATA_BYTES, error=EvaluationError).splitlines()
    in_test = {row[0].strip() for row in csv.reader(listed) if row}
    for path in sorted((source / "questions").glob("*.json"), key=lambda path: path.name):
        name = path.name.removesuffix(".json")
        if (PurePosixPath(name).stem in in_test) != (split == "test"):
            continue
        for text, values in _object(path, "questions").items():
            record = Record(values, f"{path}, {text!r:.40}")
            options = record.texts("answerTexts")
            answer = options[record.index("correctAnswer", len(options))]
            yield VqaRow(name, f"{PREFIX}ai2diagram/images/{name}", text, (answer,))


def _object(path: Path, key: str | None = None) -> dict[str, Any]:
    """Id -> record of a JSON object, under ``key`` where the file has more."""
    value = read_value(path)
    if key is not None and isinstance(value, dict):
        value = value.get(key)
    if not isinstance(value, dict) or not all(isinstance(record, dict) for record in value.values()):
        raise EvaluationError(f"{path}: expected an object with a record for each id")
    return value
