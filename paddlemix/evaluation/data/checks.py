"""What is wrong with a benchmark's data, before anything is computed with it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import EvaluationError, PaddleMixError
from ...utils.dependencies import require
from ..benchmarks import get_benchmark
from .convert import can_convert
from .sources import SOURCES, source_line

_SHOWN = 3
_CHUNK = 1 << 20

_EASY_VQA = {
    "test": "0d4630a51bafec65343e2f6af9cdd20cf8eae214344ef57636202eec409553f7",
    "train": "bb67697636aed0e65631d4266824aebeae5c833b0f37ed781e20752e85617ec5",
}
"""Sums of the questions in the package easy-vqa 1.0. The authors of the other data sets publish none."""


@dataclass(frozen=True)
class DataReport:
    """What was found.

    Attributes:
        lines: for a person.
        is_whole: nothing is wrong.
    """

    lines: tuple[str, ...]
    is_whole: bool


def check_data(name: str, split: str | None, data_dir: Path, *, reads: bool = True) -> DataReport:
    """Look at a split's files.

    Args:
        name: of the benchmark.
        split: None: the default one.
        data_dir: where the files belong.
        reads: read them: every record is checked, questions are counted, images looked for, sums computed.

    Raises:
        EvaluationError: there is no such benchmark or split.
    """
    benchmark = get_benchmark(name)
    chosen = benchmark.split(split)
    title = f"{name}:{chosen.name}"
    origin = [f"{title}: from {source_line(name)}"] if name in SOURCES else []
    if can_convert(name):
        origin.append(f"{title}: to make the files of either: paddlemix evaluate data {title} --convert DIR")
    lines, is_whole = [], True
    for file in chosen.files:
        path = data_dir / file
        if not path.is_file():
            is_whole = False
            lines.append(f"{title}: {path} is missing")
        elif reads:
            lines.append(f"{title}: {path} is there, sha256 {sha256(path)}")
        else:
            lines.append(f"{title}: {path} is there")
    if chosen.train and reads and not (data_dir / chosen.train).is_file():
        lines.append(f"{title}: {data_dir / chosen.train} is missing; only questions with examples (--shots) need it")
    if not is_whole:
        return DataReport((*lines, *origin), False)
    if not reads:
        return DataReport(tuple(lines or [f"{title}: needs no files"]), True)
    try:
        questions = benchmark.questions(data_dir, chosen.name)
    except PaddleMixError as error:
        return DataReport((*lines, f"{title}: {error}", *origin), False)
    images = {image.path: None for question in questions for image in question.images}
    lines.append(f"{title}: {_counted(len(questions), 'questions', chosen.questions)}")
    lines.append(f"{title}: {_counted(len(images), 'images', chosen.images)}")
    absent = [path for path in images if not os.path.exists(path)]
    if absent:
        shown = ", ".join(absent[:_SHOWN])
        lines.append(f"{title}: {len(absent):,} of the images are missing: {shown}{' …' * (len(absent) > _SHOWN)}")
        lines += origin
    is_whole = chosen.questions in (None, len(questions)) and not absent
    if name == "easy-vqa":
        is_published = sha256(_easy_vqa_file(chosen.name)) == _EASY_VQA[chosen.name]
        is_or_not = "are" if is_published else "are not"
        lines.append(f"{title}: the questions {is_or_not} those of easy-vqa 1.0, by their sha256")
        is_whole = is_whole and is_published
    return DataReport(tuple(lines), is_whole)


def _easy_vqa_file(split: str) -> Path:
    return Path(str(require("easy_vqa", "easy-VQA").__file__)).parent / "data" / split / "questions.json"


def sha256(path: Path) -> str:
    """The sum of a file.

    Raises:
        EvaluationError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _counted(number: int, what: str, expected: int | None) -> str:
    return f"{number:,} {what}" + (f", expected {expected:,}" if expected not in (None, number) else "")
