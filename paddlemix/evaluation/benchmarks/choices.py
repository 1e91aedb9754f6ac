"""Choice by loss: ScienceQA, MMBench and SEED-Bench."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import EvaluationError
from ..answers import chosen_option
from ..data.files import PREFIX, Record, image_ref, read_list, read_records, require_file, unique
from ..data.tables import read_table
from ..metrics.mmbench import ROTATION, Row, circular_strict, majority
from ..metrics.science_qa import groups_of
from ..metrics.seed_bench import DIMENSIONS, LAST_IMAGE_DIMENSION
from ..prompts import multiple_choice_prompt, option_texts
from ..records import Answer, ImageRef, Prompt, Question, Score
from ..sampling import Shots
from ..submissions import write_mmbench, write_seed_bench
from .base import Benchmark, Compat, Generation, Split, refuse_shots
from .scoring import percentage

CHOICE = Generation()
MAX_OPTIONS = 8
_IMAGE = re.compile(r"<img>(.*?)</img>")


def read_scienceqa(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """Questions with an image; ids are those of the data set where a record has one, else places in the file."""
    refuse_shots("scienceqa", shots)
    records = read_records(data_dir / split.files[0])
    has_ids = all("id" in record.values for record in records)
    ids = unique(lambda record: record.id("id"), records, "id") if has_ids else [str(n) for n in range(len(records))]
    questions = []
    for id_, record in zip(ids, records):
        choices, prompt = _choices(record), _prompt(data_dir, record)
        metadata = {**record.values, "answer": record.index("answer", len(choices))}
        questions.append(Question(id_, "scienceqa", split.name, prompt, choices=choices, metadata=metadata))
    return questions


def score_scienceqa(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Accuracy, by the data set's groups where the records say them."""
    categories = {q.id: [group for group in groups_of(q.metadata) if group != "average"] for q in questions}
    return _accuracy("accuracy", questions, answers, categories)


def read_mmbench(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """All rotations of all questions, with the columns of the published table where it is there."""
    refuse_shots("mmbench", shots)
    records = read_records(data_dir / split.files[0])
    ids = unique(lambda record: str(record.index("index", 100 * ROTATION)), records, "index")
    table_path = data_dir / split.files[1]
    require_file(table_path)
    table = {row["index"]: row for row in read_table(table_path, leave_out=("image",))}
    # All rotations show the same image, under names of their own: one of them lets features and prefix be reused.
    images = {id_: record.text("image") for id_, record in zip(ids, records) if int(id_) < ROTATION}
    questions = []
    for id_, record in zip(ids, records):
        if id_ not in table:
            raise EvaluationError(f"{record.where}: index {id_} is not in {table_path}; expected those of one split")
        choices = _choices(record)
        texts = record.texts("choices")
        row: dict[str, Any] = {**table[id_], "index": int(id_)}
        metadata = {"index": int(id_), "choices": texts, "row": row}
        if split.is_scored:
            metadata["answer"] = record.index("answer", len(choices))
        group = str(int(id_) % ROTATION)
        prompt = _prompt(data_dir, record, images.get(group))
        questions.append(Question(id_, "mmbench", split.name, prompt, (), choices, group, metadata))
    return questions


def score_mmbench(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Circular strict, as on public boards; what the original calls accuracy is the majority over rotations."""
    rows, unread = [], 0
    for question in questions:
        option = chosen_option(question, answers[question.id])
        unread += option is None
        meta = question.metadata
        rows.append(Row(meta["index"], meta["choices"], meta["answer"], -1 if option is None else option))
    if unread and compat == "original":
        raise EvaluationError(f"answers: {unread} name no option; the majority needs one for each rotation")
    strict = circular_strict(rows)
    beside = {} if unread else {"majority": majority(rows)}
    used, other = ("majority", "circular strict") if compat == "original" else ("circular strict", "majority")
    results = {"circular strict": strict, **beside}
    columns = ("category", "l2-category")
    categories = {q.group: [q.metadata["row"][c] for c in columns if q.metadata["row"].get(c)] for q in questions}
    others = {other: 100 * sum(results[other].values()) / len(results[other])} if other in results else {}
    single = [float(row.prediction == row.answer) for row in rows]
    others["rows, each on its own"] = 100 * sum(single) / len(single)
    notes = [f"{unread} answers name no option and count as wrong."] if unread else []
    notes.append("Choice by loss; boards ask models to write the letter, which gives other scores.")
    credits = {str(index): float(hit) for index, hit in results[used].items()}
    return percentage(f"accuracy ({used})", credits, categories=categories, others=others, notes=notes)


def read_seed_bench(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """Questions about images, frames of videos, or both, with their dimensions from the published file."""
    refuse_shots("seed-bench", shots)
    *files, published = split.files
    dimensions = {
        record.id("question_id"): record.index("question_type_id", len(DIMENSIONS) + 1)
        for record in read_list(data_dir / published, "questions")
    }
    records = [record for file in files for record in read_records(data_dir / file)]
    questions = []
    for id_, record in zip(unique(lambda record: record.id("question_id"), records, "question_id"), records):
        if id_ not in dimensions:
            raise EvaluationError(f"{record.where}: question_id {id_} is not in {published}")
        prompt = parse_prompt(data_dir, record.text("prompt"))
        if not any(isinstance(part, ImageRef) for part in prompt):
            raise record.error("prompt", "one with an image: an error message of the conversion was kept as a prompt")
        answer = "ABCD".find(record.text("answer"))
        if answer < 0 or len(record.text("answer")) != 1:
            raise record.error("answer", "one of A, B, C, D")
        metadata = {"question_id": record.values["question_id"], "answer": answer, "dimension": dimensions[id_]}
        questions.append(Question(id_, "seed-bench", split.name, prompt, choices=option_texts(4), metadata=metadata))
    return questions


def parse_prompt(data_dir: Path, text: str) -> Prompt:
    """A prompt that a data file has as one text, ``<img>path</img>`` within it."""
    parts = _IMAGE.split(text)
    mixed = [_seed_image(data_dir, part) if number % 2 else part for number, part in enumerate(parts)]
    return tuple(part for part in mixed if part)


def _seed_image(data_dir: Path, name: str) -> ImageRef:
    """An image of SEED-Bench; the original's converter writes names relative to its own directory."""
    return image_ref(data_dir if name.startswith(PREFIX) else data_dir / "seed_bench", name)


def score_seed_bench(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Accuracy over questions, by dimension."""
    categories = {}
    for question in questions:
        dimension = question.metadata["dimension"]
        kind = "image" if dimension <= LAST_IMAGE_DIMENSION else "video"
        categories[question.id] = [f"{dimension:2}. {DIMENSIONS[dimension - 1]}", kind]
    return _accuracy("accuracy", questions, answers, categories)


def _accuracy(
    name: str, questions: Sequence[Question], answers: Mapping[str, Answer], categories: Mapping[str, Sequence[str]]
) -> Score:
    chosen = {q.id: chosen_option(q, answers[q.id]) for q in questions}
    credits = {q.id: float(chosen[q.id] == q.metadata["answer"]) for q in questions}
    unread = sum(option is None for option in chosen.values())
    notes = [f"{unread} answers name no option and count as wrong."] if unread else []
    return percentage(name, credits, categories=categories, notes=notes)


def _choices(record: Record) -> tuple[str, ...]:
    """What may follow the prompt."""
    texts = record.texts("choices")
    if not 2 <= len(texts) <= MAX_OPTIONS:
        raise record.error("choices", f"2 to {MAX_OPTIONS} options")
    return option_texts(len(texts))


def _prompt(data_dir: Path, record: Record, image_name: str | None = None) -> Prompt:
    image = image_ref(data_dir, image_name or record.text("image"))
    return multiple_choice_prompt(image, record.values.get("hint"), record.text("question"), record.texts("choices"))


SCIENCEQA = Benchmark(
    "scienceqa",
    "ScienceQA (image)",
    {
        "test": Split(
            "test", ("scienceqa/scienceqa_test_img.jsonl",), 2_017, published={"Qwen-VL": 67.1, "Qwen-VL-Chat": 68.2}
        )
    },
    CHOICE,
    "accuracy",
    read_scienceqa,
    score_scienceqa,
)

_MMBENCH = tuple(f"mmbench/mmbench_{{0}}_20230712/mmbench_{{0}}_20230712.{suffix}" for suffix in ("jsonl", "tsv"))
_BOARD = "published by a board that asks for the letter"
MMBENCH = Benchmark(
    "mmbench",
    "MMBench",
    {
        "dev": Split(
            "dev", tuple(name.format("dev") for name in _MMBENCH), 4_329,
            published={"Qwen-VL-Chat": 60.6}, published_note=_BOARD,
        ),
        "test": Split(
            "test", tuple(name.format("test") for name in _MMBENCH), 6_666, is_scored=False,
            published={"Qwen-VL": 38.2, "Qwen-VL-Chat": 61.8}, published_note=_BOARD,
        ),
    },
    CHOICE,
    "accuracy (circular strict)",
    read_mmbench,
    score_mmbench,
    write_mmbench,
    ".xlsx",
    needs=("openpyxl",),
)  # fmt: skip

_SEED_IMAGE, _SEED_VIDEO = "seed_bench/image_input.jsonl", "seed_bench/video_input_4.jsonl"
_SEED = "seed_bench/SEED-Bench.json"
SEED_BENCH = Benchmark(
    "seed-bench",
    "SEED-Bench",
    {
        "image": Split("image", (_SEED_IMAGE, _SEED), 14_233, published={"Qwen-VL": 62.3, "Qwen-VL-Chat": 65.4}),
        "video": Split("video", (_SEED_VIDEO, _SEED), 5_009, published={"Qwen-VL": 39.1, "Qwen-VL-Chat": 37.8}),
        "all": Split(
            "all", (_SEED_IMAGE, _SEED_VIDEO, _SEED), 19_242, published={"Qwen-VL": 56.3, "Qwen-VL-Chat": 58.2}
        ),
    },
    CHOICE,
    "accuracy",
    read_seed_bench,
    score_seed_bench,
    write_seed_bench,
    ".jsonl",
)

BENCHMARKS = (SCIENCEQA, MMBENCH, SEED_BENCH)
