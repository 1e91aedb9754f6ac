"""Data sets with short answers, from public parquet mirrors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ....errors import EvaluationError
from ..files import Record
from .images import image_bytes, save_image
from .parquet import parquet_files, read_rows, whole
from .vqa import annotated, coco_image
from .write import VqaRow

MirrorReader = Callable[[Sequence[Path], Path, str], Iterator[VqaRow]]
"""(parquet files, data directory for the images, split) -> rows."""

_KINDS = ("question_type?", "answer_type?")


def read_vqav2(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """VQAv2, with the images named as in COCO."""
    for where, row in read_rows(paths, ("image", "image_id", "question_id", "question", "answers?", *_KINDS)):
        name = coco_image(split, whole(row, "image_id", where))
        yield _annotated_row(where, row, _save(data_dir, name, row, where), split)


def read_okvqa(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """OK-VQA; ids are those of the question's image with a digit behind."""
    for where, row in read_rows(paths, ("image", "question_id", "question", "answers", *_KINDS)):
        row["question_id"] = whole(row, "question_id", where)
        name = coco_image(split, row["question_id"] // 10)
        yield _annotated_row(where, row, _save(data_dir, name, row, where), split)


def read_textvqa(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """TextVQA."""
    for where, row in read_rows(paths, ("image", "image_id", "question_id", "question", "answers")):
        name = f"textvqa/train_images/{row['image_id']}.jpg"
        yield _annotated_row(where, row, _save(data_dir, name, row, where), split)


def read_vizwiz(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """VizWiz; ids are the images' names."""
    for number, (where, row) in enumerate(read_rows(paths, ("image", "question_id", "question", "answers?"))):
        name = f"{Path(str(row['question_id'])).stem}.jpg"
        image = _save(data_dir, f"vizwiz/{split}/{name}", row, where)
        row["question_id"] = name if split == "test" else number
        yield _annotated_row(where, row, image, split)


def read_docvqa(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """DocVQA."""
    columns = ("image", "questionId", "question", "answers?", "ucsf_document_id", "ucsf_document_page_no")
    for where, row in read_rows(paths, columns):
        name = f"docvqa/{split}/documents/{row['ucsf_document_id']}_{row['ucsf_document_page_no']}.png"
        answers = () if split == "test" else Record(row, where).texts("answers")
        yield VqaRow(whole(row, "questionId", where), _save(data_dir, name, row, where), row["question"], answers)


def read_chartqa(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """ChartQA: ``split`` is ``test_human`` or ``test_augmented``; a mirror has both, and no names of images."""
    part, half = split.split("_")
    number = 0
    columns = ("image", "question?", "query?", "answer?", "label?", "type?", "human_or_machine?")
    for where, row in read_rows(paths, columns):
        kind = str(row["type"]) if "type" in row else ("human", "augmented")[whole(row, "human_or_machine", where) % 2]
        if kind.split("_")[0] != half:
            continue
        record = Record(row, where)
        name = f"chartqa/{part}/png/{half}_{number}.png"
        answers = record.texts("answer" if "answer" in row else "label")
        question = record.text("question" if "question" in row else "query")
        yield VqaRow(number, _save(data_dir, name, row, where), question, answers)
        number += 1


def read_gqa(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """GQA: instructions, and images in files of their own, beside."""
    source = paths[0].parent.parent
    images = parquet_files(source / f"{split}_balanced_images", (split, f"{split}_balanced_images"))
    names = {}
    for where, row in read_rows(images, ("id", "image")):
        names[row["id"]] = _save(data_dir, f"gqa/images/{row['id']}.jpg", row, where)
    for where, row in read_rows(paths, ("id", "imageId", "question", "answer")):
        if row["imageId"] not in names:
            raise EvaluationError(f"{where}: image {row['imageId']} is not in {source / f'{split}_balanced_images'}")
        yield VqaRow(row["id"], names[row["imageId"]], row["question"], (row["answer"],))


def read_ocrvqa(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """OCR-VQA."""
    for where, row in read_rows(paths, ("image", "image_id", "questions", "answers")):
        image = _save(data_dir, f"ocrvqa/images/{row['image_id']}.jpg", row, where)
        for number, (question, answer) in enumerate(zip(row["questions"], row["answers"])):
            yield VqaRow(f"{row['image_id']}_{number}", image, question, (answer,))


def read_ai2d(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[VqaRow]:
    """AI2D; the answer is the number of an option."""
    for number, (where, row) in enumerate(read_rows(paths, ("image", "question", "options", "answer"))):
        name = f"mirror_{number}.png"
        record = Record({**row, "answer": whole(row, "answer", where)}, where)
        answer = row["options"][record.index("answer", len(row["options"]))]
        yield VqaRow(name, _save(data_dir, f"ai2diagram/images/{name}", row, where), row["question"], (answer,))


def _annotated_row(where: str, row: dict, image: str, split: str) -> VqaRow:
    has_truth = split not in ("test", "test-dev")
    answers, kinds = annotated(Record(row, where)) if has_truth else ((), {})
    return VqaRow(row["question_id"], image, row["question"], answers, kinds)


def _save(data_dir: Path, name: str, row: dict, where: str) -> str:
    return save_image(data_dir, name.removeprefix("data/"), image_bytes(row["image"], where))
