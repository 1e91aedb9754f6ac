"""What benchmarks there are, as text."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import EvaluationError
from .benchmarks import BENCHMARKS, Split
from .tasks import split_name


def benchmark_table() -> str:
    """A line for each split: name, questions, images, how it is asked and measured, published scores."""
    rows = [("benchmark", "questions", "images", "asked as", "measure", "published")]
    for benchmark in BENCHMARKS.values():
        generation = benchmark.generation
        form = "raw prompt" if generation.form == "raw" else "conversation"
        form += f", {generation.max_new_tokens} tokens" if generation.max_new_tokens else ", choice by loss"
        for split in benchmark.splits.values():
            metric = benchmark.metric if split.is_scored else f"{benchmark.metric}, by its server"
            rows.append(
                (f"{benchmark.name}:{split.name}", _count(split.questions), _count(split.images), form, metric)
                + (published_text(split) or "–",)
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def published_text(split: Split) -> str:
    """The published scores of a split."""
    return ", ".join(f"{model} {value:g}" for model, value in split.published.items())


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def data_lines(text: str, data_dir: Path, *, check: bool) -> tuple[list[str], bool]:
    """Which files a split needs.

    Args:
        text: as of :func:`.tasks.split_name`.
        data_dir: where they belong.
        check: read them, count the questions and look for the images.

    Returns:
        Lines for a person, and whether all that was looked at is right.
    """
    benchmark, name = split_name(text)
    split = benchmark.split(name)
    title = f"{benchmark.name}:{name}"
    missing = [file for file in split.files if not (data_dir / file).exists()]
    lines = [f"{title}: {data_dir / file} {'is missing' if file in missing else 'is there'}" for file in split.files]
    if not split.files:
        lines = [f"{title}: needs no files"]
    if missing or not check:
        return lines, not missing
    try:
        questions = benchmark.questions(data_dir, name)
    except EvaluationError as error:
        return [*lines, f"{title}: {error}"], False
    images = dict.fromkeys(image.path for question in questions for image in question.images)
    absent = [path for path in images if not os.path.exists(path)]
    is_all = split.questions in (None, len(questions))
    lines.append(f"{title}: {len(questions):,} questions" + ("" if is_all else f", expected {_count(split.questions)}"))
    lines.append(
        f"{title}: {len(images):,} images" + (f", {len(absent):,} missing, {absent[0]} first" if absent else "")
    )
    return lines, is_all and not absent
