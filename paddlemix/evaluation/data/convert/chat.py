"""MME and TouchStone, from the files of their authors and from mirrors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ....errors import EvaluationError
from ....utils.files import read_text, write_text
from ...metrics.mme import COGNITION, PERCEPTION
from ..files import MAX_DATA_BYTES
from ..tables import read_table
from .images import from_base64, image_bytes, save_image, suffix_of
from .parquet import read_rows

CATEGORIES = (*PERCEPTION, *COGNITION)
_IMAGES = (".jpg", ".png", ".jpeg")
MmeRow = tuple[str, str, bytes, list[tuple[str, str]]]
"""(category, image's name, image, [(question, Yes or No)])"""


def write_mme(data_dir: Path, rows: Iterator[MmeRow]) -> int:
    """A file for each category, two lines for each image; returns the number of questions.

    Raises:
        EvaluationError: an image has not two questions, or a category is missing.
    """
    table: dict[str, list[str]] = defaultdict(list)
    for category, name, content, questions in rows:
        if len(questions) != 2:
            raise EvaluationError(f"mme: {category}/{name} has {len(questions)} questions, expected two")
        save_image(data_dir, f"mme/images/{category}/{name}", content)
        for question, truth in questions:
            if truth.lower() not in ("yes", "no"):
                raise EvaluationError(f"mme: {category}/{name}: the answer is {truth!r}, expected Yes or No")
            table[category].append(f"{name}\t{' '.join(question.split())}\t{truth}")
    missing = [category for category in CATEGORIES if category not in table]
    if missing:
        raise EvaluationError(f"mme: the source has no questions of {', '.join(missing)}")
    for category in CATEGORIES:
        path = data_dir / "mme" / "Your_Results" / f"{category}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(table[category]) + "\n")
    return sum(map(len, table.values()))


def read_mme(source: Path, split: str) -> Iterator[MmeRow]:
    """The released folders: texts beside the images, or in ``questions_answers_YN`` beside ``images``."""
    for category in CATEGORIES:
        folder = source / category
        texts = folder / "questions_answers_YN" if (folder / "questions_answers_YN").is_dir() else folder
        images = folder / "images" if (folder / "images").is_dir() else folder
        for path in sorted(texts.glob("*.txt")):
            lines = read_text(path, limit=MAX_DATA_BYTES, error=EvaluationError).strip("\n").split("\n")
            fields = [line.split("\t") for line in lines]
            if any(len(field) != 2 for field in fields):
                raise EvaluationError(f"{path}: expected a question, a tab, and Yes or No in each line")
            image = next((found for suffix in _IMAGES if (found := images / f"{path.stem}{suffix}").is_file()), None)
            if image is None:
                raise EvaluationError(f"{path}: there is no image {images / path.stem} with {' or '.join(_IMAGES)}")
            questions = [(question.strip(), truth.strip()) for question, truth in fields]
            yield category, image.name, image.read_bytes(), questions


def read_mme_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[MmeRow]:
    """MME in parquet: a row for each question, ids ``category/image``."""
    table: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    contents: dict[tuple[str, str], bytes] = {}
    for where, row in read_rows(paths, ("question_id", "image", "question", "answer", "category")):
        key = (row["category"], row["question_id"].rsplit("/", 1)[-1])
        contents.setdefault(key, image_bytes(row["image"], where))
        table[key].append((row["question"], row["answer"]))
    for (category, name), questions in table.items():
        yield category, name, contents[category, name], questions


def read_touchstone(source: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The published table, English or Chinese."""
    name = "touchstone_20230831.tsv" if split == "en" else "touchstone_20230831_cn.tsv"
    path = source / name
    for row in read_table(path):
        where = f"{path}, index {row['index']}"
        yield row, from_base64(row.pop("image", None) or "", where)


def touchstone_records(data_dir: Path, rows: Iterator[tuple[dict[str, Any], bytes]]) -> Iterator[dict[str, Any]]:
    """Records with the names of their images, which are written."""
    for row, content in rows:
        name = f"touchstone/images/{row['index']}{suffix_of(content)}"
        yield {**row, "image": save_image(data_dir, name, content)}
