"""Small sets about drawn images: easy-VQA, a package of its own, and the scenes of the bundled model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...utils.dependencies import require
from ..data.files import image_ref, read_records
from ..metrics.exact_match import exact_match
from ..metrics.grounding import grounding_iou, is_hit
from ..prompts import labeled_prompt
from ..records import Answer, ImageRef, Question, Score
from ..sampling import Shots
from .base import Benchmark, Compat, Generation, Split, refuse_shots
from .scoring import percentage

CHAT = Generation(0, 32, form="chat")
_YES_NO = ("yes", "no")


def read_easy_vqa(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """The questions that the package ``easy-vqa`` (MIT) holds; the data directory is not looked at."""
    refuse_shots("easy-vqa", shots)
    package = require("easy_vqa", "easy-VQA")
    texts, truths, image_ids = getattr(package, f"get_{split.name}_questions")()
    paths = getattr(package, f"get_{split.name}_image_paths")()
    return [
        Question(
            str(number),
            "easy-vqa",
            split.name,
            labeled_prompt([ImageRef(paths[image], f"{split.name}/{image}.png")], text),
            (truth,),
            metadata={"image": image},
        )
        for number, (text, truth, image) in enumerate(zip(texts, truths, image_ids))
    ]


def score_easy_vqa(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Exact match, by kind of answer."""
    credits = {q.id: exact_match(answers[q.id].text.rstrip(" ."), q.references) for q in questions}
    categories = {q.id: [_kind(q.references[0])] for q in questions}
    return percentage("exact match", credits, categories=categories)


def _kind(truth: str) -> str:
    if truth in _YES_NO:
        return "yes or no"
    return "shape" if truth in ("circle", "rectangle", "triangle") else "color"


def read_scenes(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """Questions about scenes, from files that ``examples/bundled_model/export_scenes.py`` writes."""
    refuse_shots("scenes", shots)
    questions = []
    for number, record in enumerate(read_records(data_dir / split.files[0])):
        metadata: dict[str, Any] = {name: record.text(name) for name in ("task", "language")}
        box = record.values.get("bbox") is not None
        if box:
            metadata |= {name: record.size(name) for name in ("width", "height")} | {"bbox": record.box("bbox")}
        prompt = labeled_prompt([image_ref(data_dir, record.text("image"))], record.text("question"))
        truth = () if box else record.texts("answer")
        questions.append(Question(str(number), "scenes", split.name, prompt, truth, metadata=metadata))
    return questions


def score_scenes(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """The share of right answers: the whole sentence, or a box of IoU 0.5."""
    credits, categories = {}, {}
    for question in questions:
        given, meta = answers[question.id].text, question.metadata
        if "bbox" in meta:
            credits[question.id] = float(is_hit(grounding_iou(given, meta["bbox"], meta["width"], meta["height"])))
        else:
            credits[question.id] = exact_match(given, question.references)
        categories[question.id] = [f"task: {meta['task']}", f"language: {meta['language']}"]
    return percentage("accuracy", credits, categories=categories)


EASY_VQA = Benchmark(
    "easy-vqa",
    "easy-VQA",
    {"test": Split("test", (), 9_673, 1_000), "train": Split("train", (), 38_575, 4_000)},
    CHAT,
    "exact match",
    read_easy_vqa,
    score_easy_vqa,
)

SCENES = Benchmark(
    "scenes",
    "Scenes of the bundled model",
    {"test": Split("test", ("scenes/test.jsonl",))},
    Generation(0, 64, form="chat"),
    "accuracy",
    read_scenes,
    score_scenes,
)

BENCHMARKS = (EASY_VQA, SCENES)
