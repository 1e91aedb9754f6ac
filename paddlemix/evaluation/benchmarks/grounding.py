"""Grounding: RefCOCO, RefCOCO+, RefCOCOg and GRIT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import EvaluationError
from ..data.files import image_ref, read_list, read_records, unique
from ..metrics.grit_refexp import refexp_hit, refexp_partitions
from ..metrics.grounding import grounding_iou, is_hit, parse_box, parse_box_as_original
from ..metrics.sharding import indices_in_whole_batches
from ..prompts import grounding_prompt
from ..records import Answer, Question, Score
from ..sampling import Shots
from ..submissions import pixel_boxes, write_grit
from .base import Benchmark, Compat, Generation, Split, refuse_shots
from .scoring import percentage

BOX = Generation(10, 28)
_PROCESSES, _BATCH_SIZE = 8, 8
"""Of the original's run, which leaves out each process's last incomplete batch."""
_FLAGS = ("is_new_source", "has_new_concept", "is_distorted")


def read_refcoco(name: str, data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """A question for each sentence; ids are places in the file."""
    refuse_shots(name, shots)
    records = read_records(data_dir / split.files[0])
    questions = []
    for number, record in enumerate(records):
        phrase, box = record.text("sent"), record.box("bbox")
        width, height = record.size("width"), record.size("height")
        if box[2] > width + 1 or box[3] > height + 1:
            raise record.error("bbox", f"corners within the image's {width:g} x {height:g} pixels")
        metadata = {"sent": phrase, "bbox": box, "width": width, "height": height, "of": len(records)}
        prompt = grounding_prompt(image_ref(data_dir, record.text("image")), phrase)
        questions.append(Question(str(number), name, split.name, prompt, metadata=metadata))
    return questions


def score_refcoco(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """The share of boxes with IoU 0.5 or more."""
    as_original = compat == "original"
    table = {way: {q.id: _hit(q, answers[q.id], as_original=way) for q in questions} for way in (False, True)}
    credits, notes = table[as_original], []
    kept = indices_in_whole_batches(len(questions), _PROCESSES, _BATCH_SIZE)
    if as_original and kept and len(questions) == questions[0].metadata["of"]:
        credits = {str(number): credits[str(number)] for number in kept}
        notes.append(
            f"{len(questions) - len(kept)} of {len(questions)} records are left out, as by {_PROCESSES} processes with "
            f"batches of {_BATCH_SIZE}."
        )
    parse = parse_box_as_original if as_original else parse_box
    unread = [q.id for q in questions if parse(answers[q.id].text) is None]
    if unread:
        notes.append(f"{len(unread)} answers have no box and count as wrong, the first is that to {unread[0]}.")
    name = "accuracy at IoU 0.5 (scale {})"
    other = table[not as_original].values()
    others = {name.format(1000 if as_original else 999): 100 * sum(other) / len(other)}
    return percentage(name.format(999 if as_original else 1000), credits, others=others, notes=notes)


def _hit(question: Question, answer: Answer, *, as_original: bool) -> float:
    meta = question.metadata
    iou = grounding_iou(answer.text, meta["bbox"], meta["width"], meta["height"], as_original=as_original)
    return float(is_hit(iou))


def read_grit(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """The samples of a subset, with their true boxes where the file has them."""
    refuse_shots("grit", shots)
    records = read_list(data_dir / split.files[0])
    questions = []
    for id_, record in zip(unique(lambda record: record.id("example_id"), records, "example_id"), records):
        query = record.text("task_query")
        image = image_ref(data_dir, f"data/grit/images/{record.text('image_id')}")
        metadata: dict[str, Any] = {"example_id": id_, "image_id": record.text("image_id"), "task_query": query}
        metadata |= {flag: bool(record.values.get(flag)) for flag in _FLAGS}
        if record.values.get("gt_bbox"):
            metadata["bbox"] = record.box("gt_bbox")
        questions.append(Question(id_, "grit", split.name, grounding_prompt(image, query), metadata=metadata))
    return questions


def score_grit(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Mean hits over known and new sources, for files that have the truth."""
    hidden = [question.id for question in questions if "bbox" not in question.metadata]
    if hidden:
        raise EvaluationError(f"gt_bbox: sample {hidden[0]} has none, as the truth is not public; export the answers")
    hits = {q.id: refexp_hit(pixel_boxes(q, answers[q.id].text), q.metadata["bbox"]) for q in questions}
    partitions = refexp_partitions([question.metadata for question in questions], hits)
    if "agg" not in partitions:
        note = "One of the sources has fewer than two samples here: the mean of all is given, which does not compare."
        return percentage("hits", hits, notes=[note])
    aggregate = partitions.pop("agg")
    others = {name: part["mean"] for name, part in partitions.items()}
    interval = (aggregate["lower"], aggregate["upper"])
    return Score("GRIT refexp", aggregate["mean"], "%", len(hits), interval, per_question=hits, others=others)


def _refcoco(name: str, title: str, *splits: tuple[str, int, float, float]) -> Benchmark:
    table = {
        split: Split(split, (f"{name}/{name}_{split}.jsonl",), count, published={"Qwen-VL": base, "Qwen-VL-Chat": chat})
        for split, count, base, chat in splits
    }
    return Benchmark(name, title, table, BOX, "accuracy at IoU 0.5", partial(read_refcoco, name), score_refcoco)


REFCOCO = _refcoco(
    "refcoco", "RefCOCO",
    ("val", 10_834, 89.36, 88.55), ("testA", 5_657, 92.26, 92.27), ("testB", 5_095, 85.34, 84.51),
)  # fmt: skip
REFCOCO_PLUS = _refcoco(
    "refcoco+", "RefCOCO+",
    ("val", 10_758, 83.12, 82.82), ("testA", 5_726, 88.25, 88.59), ("testB", 4_889, 77.21, 76.79),
)  # fmt: skip
REFCOCOG = _refcoco("refcocog", "RefCOCOg", ("val", 4_896, 85.58, 85.96), ("test", 9_602, 85.48, 86.32))

GRIT = Benchmark(
    "grit",
    "GRIT refexp",
    {
        "test": Split("test", ("grit/samples/test/refexp.json",), is_scored=False, published={"Qwen-VL": 78.22}),
        "ablation": Split("ablation", ("grit/samples/ablation/refexp.json",)),
    },
    Generation(10, 28, needs_logprob=True),
    "mean of known and new sources",
    read_grit,
    score_grit,
    write_grit,
    ".zip",
)

BENCHMARKS = (REFCOCO, REFCOCO_PLUS, REFCOCOG, GRIT)
