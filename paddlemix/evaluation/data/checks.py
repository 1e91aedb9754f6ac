"""What is wrong with a benchmark's data, before anything is computed with it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import EvaluationError, PaddleMixError
from ..benchmarks import get_benchmark
from .sources import source_line

_SHOWN = 3
_CHUNK = 1 << 20

KNOWN_SHA256 = {
    "easy-vqa:test": "",
    "easy-vqa:train": "",
}
"""Of what the package easy-vqa 1.0 holds. The other data sets publish no sums."""


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
        return DataReport((*lines, f"{title}: from {source_line(name)}"), False)
    if not reads:
        return DataReport(tuple(lines or [f"{title}: needs no files"]), True)
    try:
        questions = benchmark.questions(data_dir, chosen.name)
    except PaddleMixError as error:
        return DataReport((*lines, f"{title}: {error}", f"{title}: from {source_line(name)}"), False)
    images = {image.path: None for question in questions for image in question.images}
    lines.append(f"{title}: {_counted(len(questions), 'questions', chosen.questions)}")
    lines.append(f"{title}: {_counted(len(images), 'images', chosen.images)}")
    absent = [path for path in images if not os.path.exists(path)]
    if absent:
        shown = ", ".join(absent[:_SHOWN])
        lines.append(f"{title}: {len(absent):,} of the images are missing: {shown}{' …' * (len(absent) > _SHOWN)}")
        lines.append(f"{title}: from {source_line(name)}")
    is_counted = chosen.questions in (None, len(questions))
    if name == "easy-vqa":
        lines.append(_easy_vqa_sum(title, chosen.name))
    return DataReport(tuple(lines), is_counted and not absent)


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
