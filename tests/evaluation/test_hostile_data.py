"""Whatever stands in data files and sources, there is a result or one error of this package, in one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from paddlemix.errors import PaddleMixError
from paddlemix.evaluation.benchmarks import BENCHMARKS
from paddlemix.evaluation.data.convert import convert
from paddlemix.evaluation.records import Answer
from tests.evaluation import small_data, small_sources

ROUNDS, ROUNDS_OF_SOURCES = 10, 3
UNSCORED = ("nocaps", "flickr30k", "touchstone")
"""Whose scores start Java, or ask a judge."""
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, "", "a\tb\n", [], {}, [1], ["a"], {"a": 1}, 10**30, "\ud800", [None] * 4, "../x",
)  # fmt: skip


def mutated(value: Any, draw: random.Random) -> Any:
    """The value with one thing in it taken away or replaced by a strange one."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(STRANGE)


def damage(path: Path, draw: random.Random) -> None:
    """Change one thing in a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json" and draw.random() < 0.9:
        text = json.dumps(mutated(json.loads(text), draw))
    elif path.suffix == ".jsonl" and draw.random() < 0.9:
        lines = text.splitlines()
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(mutated(json.loads(lines[place]), draw))
        text = "\n".join(lines)
    else:
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(("\t", "\n", '"', "\0", "")) + text[place + draw.randrange(3) :]
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    small_data.write_all(path)
    return path


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "easy-vqa"])
def test_damaged_data_gives_a_result_or_an_error(name: str, data_dir: Path, tmp_path: Path) -> None:
    draw, benchmark = random.Random(name), BENCHMARKS[name]
    for _ in range(ROUNDS):
        split = draw.choice(list(benchmark.splits.values()))
        path = data_dir / draw.choice(split.files)
        whole = path.read_bytes()
        damage(path, draw)
        try:
            questions = benchmark.questions(data_dir, split.name)
            answers = {q.id: Answer(q.id, "A (1,2),(3,4)", logprob=-1.0) for q in questions}
            if split.is_scored and name not in UNSCORED:
                benchmark.score(questions, answers, compat=draw.choice((None, "original")))
            if benchmark.write_submission:
                benchmark.write_submission(tmp_path / "submission", questions, answers)
        except PaddleMixError as error:
            assert "\n" not in str(error)
        finally:
            path.write_bytes(whole)


@pytest.mark.parametrize("name", sorted(small_sources.BOTH))
def test_damaged_sources_give_files_or_an_error(name: str, tmp_path: Path) -> None:
    draw, (write, split) = random.Random(name), small_sources.BOTH[name]
    for _ in range(ROUNDS_OF_SOURCES):
        write(tmp_path / "source", tmp_path / "mirror")
        files = sorted(path for path in (tmp_path / "source").rglob("*") if path.suffix in (".json", ".tsv", ".txt"))
        damage(draw.choice(files), draw)
        try:
            convert(name, split, tmp_path / "source", tmp_path / "out")
            BENCHMARKS[name].questions(tmp_path / "out", split)
        except PaddleMixError as error:
            assert "\n" not in str(error)
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
