"""Prompts and measures of this project as functions of lmms-eval's tasks; it needs no package of the project's."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from paddlemix.evaluation.metrics.anls import anls
from paddlemix.evaluation.metrics.exact_match import exact_match
from paddlemix.evaluation.metrics.gqa import shorten
from paddlemix.evaluation.metrics.relaxed_accuracy import relaxed_accuracy
from paddlemix.evaluation.prompts import vqa_prompt
from paddlemix.evaluation.records import ImageRef

Record = dict[str, Any]


def image(record: Record) -> list[Image.Image]:
    """The image of a record; its path is relative to the folder in DATA_ROOT, that of ``data``."""
    path = os.path.join(os.environ.get("DATA_ROOT", "."), record["image"])
    return [Image.open(path).convert("RGB")]


def vqa_text(record: Record, **_: Any) -> str:
    """The question as the published evaluation asks it, without the image."""
    prompt = vqa_prompt(ImageRef(record["image"], record["image"]), record["question"])
    return "".join(part for part in prompt if isinstance(part, str))


def answers(record: Record) -> list[str]:
    """The accepted answers."""
    answer = record["answer"]
    return answer if isinstance(answer, list) else [answer]


def gqa_result(record: Record, results: list[str]) -> dict[str, float]:
    """Exact match after cutting."""
    return {"accuracy": exact_match(shorten(results[0]), answers(record))}


def exact_result(record: Record, results: list[str]) -> dict[str, float]:
    """Exact match."""
    return {"accuracy": exact_match(results[0], answers(record))}


def docvqa_result(record: Record, results: list[str]) -> dict[str, float]:
    """ANLS."""
    return {"accuracy": anls(results[0], answers(record))}


def chartqa_result(record: Record, results: list[str]) -> dict[str, float]:
    """Relaxed accuracy."""
    return {"accuracy": relaxed_accuracy(results[0], answers(record))}
