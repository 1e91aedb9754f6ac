"""What decides the answers of a run: answers of two runs count together only where all of it is equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from .benchmarks import Benchmark
from .records import ImageRef, Question

Settings = dict[str, Any]
"""Name -> JSON value; readable by people, compared field by field."""

_PIECES, _PIECE_BYTES = 16, 1 << 16
_WEIGHT_FILES = ("*.safetensors", "*.pdparams", "*.bin", "*.json", "*.tiktoken")


def benchmark_settings(
    benchmark: Benchmark, split: str, questions: Iterable[Question], shots: int, seed: int, as_original: bool
) -> Settings:
    """The part of the benchmark: its data and prompts, and how answers are generated.

    Args:
        benchmark: of the registry.
        split: its name.
        questions: all of the split, before a sample is taken.
        shots: examples before each question.
        seed: of their draw.
        as_original: they are drawn as the original does.
    """
    generation = benchmark.generation
    settings: Settings = {
        "benchmark": benchmark.name,
        "split": split,
        "data": questions_digest(questions),
        "form": generation.form + (" with tags" if generation.keeps_tags else ""),
        "new tokens": [generation.min_new_tokens, generation.max_new_tokens],
        "shots": shots,
    }
    if shots:
        settings["seed"] = seed
        settings["draw"] = "as the original" if as_original else "by hash"
    return settings


def questions_digest(questions: Iterable[Question]) -> str:
    """A hash of ids, prompts, names of images and choices, in hexadecimal."""
    digest = hashlib.sha256()
    for question in questions:
        prompt = [[part.name] if isinstance(part, ImageRef) else part for part in question.prompt]
        digest.update(json.dumps([question.id, prompt, question.choices]).encode())
    return digest.hexdigest()[:16]


def files_digest(folder: Path) -> str:
    """A hash of a model's or an adapter's files, in hexadecimal: their names and sizes, and pieces of each.

    Raises:
        EvaluationError: one cannot be read.
    """
    digest = hashlib.sha256()
    files = {path for pattern in _WEIGHT_FILES for path in folder.glob(pattern) if path.is_file()}
    try:
        for path in sorted(files):
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                for piece in range(_PIECES):
                    file.seek(max(0, size - _PIECE_BYTES) * piece // (_PIECES - 1))
                    digest.update(file.read(_PIECE_BYTES))
    except OSError as error:
        raise EvaluationError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def check_same(stored: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Refuse to mix answers of two runs.

    Args:
        stored: settings of the answers that are there.
        given: settings of this run.
        where: the file of ``stored``, for the message.

    Raises:
        EvaluationError: a field differs; the message names it and both values.
    """
    for name in {**stored, **given}:
        if stored.get(name) != given.get(name):
            raise EvaluationError(
                f"{where}: its answers were made with {name} {stored.get(name)!r}, this run has {given.get(name)!r}; "
                "answers of both would be mixed: use the same options, or another --output_dir"
            )


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short hash of settings, to be shown beside scores."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
