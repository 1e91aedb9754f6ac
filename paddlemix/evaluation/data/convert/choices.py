"""ScienceQA, MMBench and SEED-Bench, from the files of their authors and from mirrors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ....errors import EvaluationError
from ....utils.files import replacing
from ...metrics.mmbench import LETTERS, ROTATION
from ...metrics.seed_bench import DIMENSIONS, LAST_IMAGE_DIMENSION
from ...prompts import render, seed_bench_prompt
from ...records import ImageRef
from ..files import PREFIX, Record, read_list, read_value
from ..mmbench import convert_row
from ..tables import read_table
from .frames import write_frames
from .images import from_base64, image_bytes, save_image
from .parquet import read_rows
from .write import write_lines, write_value

Note = Callable[[str], None]

_MISSING = (None, "", "nan")
_SCIENCE = ("question", "choices", "answer", "hint", "grade", "subject", "topic")


def read_scienceqa(source: Path, split: str) -> Iterator[dict[str, Any]]:
    """The problems of a part that have an image, with what their groups depend on."""
    problems, parts = read_value(source / "problems.json"), read_value(source / "pid_splits.json")
    try:
        chosen = [(id_, dict(problems[id_])) for id_ in parts[split]]
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{source}: problems.json has no {error}, which pid_splits.json names") from error
    for id_, problem in chosen:
        if problem.get("image"):
            image = f"{PREFIX}scienceqa/images/{split}/{id_}/{problem['image']}"
            yield {"id": id_, "image": image, **{name: problem.get(name) for name in _SCIENCE}}


def read_scienceqa_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[dict[str, Any]]:
    """ScienceQA in parquet: ids are the rows' places, those without an image counted."""
    for number, (where, row) in enumerate(read_rows(paths, ("image", *_SCIENCE))):
        if row["image"] is not None:
            name = f"scienceqa/images/{split}/{number}/image.png"
            image = save_image(data_dir, name, image_bytes(row["image"], where))
            yield {"id": str(number), "image": image, **{column: row[column] for column in _SCIENCE}}


def write_mmbench(data_dir: Path, files: Sequence[str], rows: Iterator[tuple[dict[str, Any], bytes]]) -> int:
    """Converted records, images as they are, and the table without its images, which scores and submissions need."""
    folder = files[0].rsplit("/", 1)[0] + "/images"
    kept: list[dict[str, Any]] = []

    def records() -> Iterator[dict[str, Any]]:
        for row, content in rows:
            record = convert_row(row, PREFIX + folder)
            save_image(data_dir, f"{folder}/{row['index']}.jpg", content)
            kept.append(row)
            yield record

    count = write_lines(data_dir / files[0], records())
    table = data_dir / files[1]
    if not table.exists():
        columns = list(kept[0])
        with replacing(table) as aside, open(aside, "x", encoding="utf-8", errors="replace", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([row.get(column) for column in columns] for row in kept)
    return count


def read_mmbench(source: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The published table; a row whose image is another row's number has that row's image."""
    name = f"mmbench_{split}_20230712"
    path = source / f"{name}.tsv" if (source / f"{name}.tsv").is_file() else source / name / f"{name}.tsv"
    images: dict[str, str] = {}
    for row in read_table(path):
        where = f"{path}, index {row['index']}"
        text = row.pop("image", None) or ""
        text = images.get(text, text)
        if int(row["index"] or 0) < ROTATION:
            images[str(row["index"])] = text
        yield row, from_base64(text, where)


def read_mmbench_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """MMBench in parquet; words that a mirror wrote for missing fields are missing again."""
    letters = tuple(LETTERS[:4])
    columns = ("index", "question", "hint", *letters, "answer?", "category", "L2-category?", "l2-category?", "image")
    for where, row in read_rows(paths, columns):
        content = image_bytes(row.pop("image"), where)
        row["hint"] = None if row["hint"] in _MISSING else row["hint"]
        for letter in reversed(letters):  # an option of such a name is one if another comes behind it
            if row[letter] not in _MISSING:
                break
            row[letter] = None
        row["l2-category"] = row.pop("L2-category", None) or row.get("l2-category")
        row["split"] = split
        yield row, content


def convert_seed_bench(source: Path, data_dir: Path, split: str, note: Note) -> int:
    """SEED-Bench: prompts as the original's converter writes them, with four frames of each video.

    A video that cannot be read is said and left out; the original writes its error message into the prompt.
    """
    path = source / "SEED-Bench.json"
    questions = read_list(path, "questions")
    failed = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for record in questions:
            if _kind(record) != split:
                continue
            if split == "image":
                names = [f"{PREFIX}seed_bench/SEED-Bench-image/{record.text('data_id')}"]
            else:
                try:
                    names = write_frames(record, source, data_dir)
                except EvaluationError as error:
                    failed += 1
                    note(str(error))
                    continue
            yield seed_bench_record(record, names)

    name = "image_input.jsonl" if split == "image" else "video_input_4.jsonl"
    count = write_lines(data_dir / "seed_bench" / name, records())
    target = data_dir / "seed_bench" / "SEED-Bench.json"
    if not target.exists():
        write_value(target, read_value(path))
    if failed:
        note(f"seed-bench:{split}: {failed} questions are left out, as their videos cannot be read")
    return count


def convert_seed_bench_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> int:
    """SEED-Bench in parquet, which holds frames for videos."""
    choices = tuple(f"choice_{letter}" for letter in "abcd")
    columns = ("question_id", "question", "answer", "question_type_id", "data_id", "data_type", "image", *choices)
    questions: list[dict[str, Any]] = []

    def records() -> Iterator[dict[str, Any]]:
        for where, row in read_rows(paths, columns):
            pictures = row.pop("image")
            questions.append(row)
            if _kind(Record(row, where)) != split:
                continue
            folder = "SEED-Bench-image" if split == "image" else "frames"
            names = [
                save_image(
                    data_dir,
                    f"seed_bench/{folder}/{row['data_id'] if split == 'image' else row['question_id']}"
                    + (f"_{number}.png" if split == "video" else ""),
                    image_bytes(picture, where),
                )
                for number, picture in enumerate(pictures[:4] if split == "video" else pictures)
            ]
            yield seed_bench_record(Record(row, where), names)

    name = "image_input.jsonl" if split == "image" else "video_input_4.jsonl"
    count = write_lines(data_dir / "seed_bench" / name, records())
    write_value(data_dir / "seed_bench" / "SEED-Bench.json", json.loads(json.dumps({"questions": questions})))
    return count


def _kind(record: Record) -> str:
    """``"image"`` or ``"video"``, by the dimension."""
    return "image" if record.index("question_type_id", len(DIMENSIONS) + 1) <= LAST_IMAGE_DIMENSION else "video"


def seed_bench_record(record: Record, names: Sequence[str]) -> dict[str, Any]:
    """A converted record: the whole prompt with the names of its images."""
    choices = [record.text(f"choice_{letter}") for letter in "abcd"]
    prompt = render(seed_bench_prompt([ImageRef("", name) for name in names], record.text("question"), choices))
    return {"question_id": record.values["question_id"], "prompt": prompt, "answer": record.text("answer")}
