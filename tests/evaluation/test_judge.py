from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.benchmarks import BENCHMARKS, Split
from paddlemix.evaluation.judge import FILE, JudgeOptions, JudgePrompt, judge_folder
from paddlemix.evaluation.openai_client import ClientOptions
from paddlemix.evaluation.records import Question
from paddlemix.evaluation.run import run
from paddlemix.evaluation.sampling import Shots
from paddlemix.evaluation.scoring import score_folder, table
from paddlemix.evaluation.tasks import RunOptions, make_task
from tests.evaluation.fake_backend import FakeBackend
from tests.evaluation.fake_server import Reply, chat_reply, serving
from tests.evaluation.toys import toy_benchmark, write_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The answers ``no`` and ``10`` to four questions."""
    toy = toy_benchmark(name="judged", questions=4)

    def read(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
        facts = {"human_annotation": "a {question}", "gpt4_ha_answer": "a reference"}
        return [
            replace(q, metadata={**facts, "question": f"{q.id}?", "category": "A,B" if q.id == "q0" else "A"})
            for q in toy.read(data_dir, split, shots)
        ]

    monkeypatch.setitem(BENCHMARKS, "judged", replace(toy, read=read, is_judged=True))
    write_images(tmp_path)
    options = RunOptions(tmp_path, tmp_path / "out")
    run([make_task("judged", options)], options, FakeBackend, lambda line: None)
    yield tmp_path / "out" / "judged-test"


def judge(folder: Path, url: str, model: str = "j", lines: list[str] | None = None) -> int:
    client = ClientOptions(url, timeout=0.3, retries=1, first_wait=0.01)
    note = (lines if lines is not None else []).append
    return judge_folder(folder, folder.parent.parent, JudgeOptions(client, model), note)


def scores(first: str, second: str) -> Callable[[str, dict[str, Any]], Reply]:
    """A judge that gives the answer ``10`` and others these scores."""

    def reply(path: str, body: dict[str, Any]) -> Reply:
        answers = body["messages"][1]["content"].split("Answer of assistant ")[1:]
        return chat_reply(" ".join(first if "10" in answer.splitlines()[1] else second for answer in answers))

    return reply


def test_answers_are_judged_in_both_orders_and_asked_for_once(folder: Path) -> None:
    with serving(scores("8", "4")) as (url, got):
        assert judge(folder, url) == 0
        assert len(got) == 8
        assert judge(folder, url) == 0
        assert len(got) == 8
    first = got[0]["messages"][1]["content"]
    assert "a {question}" in first and got[0]["temperature"] == 0
    result = score_folder(folder, folder.parent.parent)
    assert result.score is not None
    assert (result.score.value, result.score.n) == (600.0, 4)  # two answers of 8, two of 4
    assert result.score.others == {"reference answers": 400.0}
    assert {name: (part.value, part.n) for name, part in result.score.by_category.items()} == {
        "A": (600.0, 4),
        "B": (400.0, 1),
    }
    assert "the judge is j" in table([result])


def test_a_judge_that_writes_nonsense_or_is_late_is_counted_and_gives_no_score(folder: Path) -> None:
    nonsense = {"q1": chat_reply("I cannot"), "q2": (503, {}), "q3": (200, {"choices": []})}

    def reply(path: str, body: dict[str, Any]) -> Reply:
        text = body["messages"][1]["content"]
        return next((answer for name, answer in nonsense.items() if f"{name}?" in text), chat_reply("5 5"))

    lines: list[str] = []
    with serving(reply) as (url, got):
        assert judge(folder, url, lines=lines) == 6
    assert any("round 1: no scores: the judge wrote 'I cannot', expected two numbers" in line for line in lines)
    result = score_folder(folder, folder.parent.parent)
    assert result.score is not None and (result.score.value, result.score.n) == (500.0, 1)
    assert "6 of 8 rounds have no scores and do not count" in result.score.notes
    with serving(lambda path, body: chat_reply("7 7")) as (url, got):
        assert judge(folder, url) == 0
        assert len(got) == 6  # those alone that failed


def test_scores_outside_the_scale_count_for_the_original_alone(folder: Path) -> None:
    with serving(scores("99", "4")) as (url, _):
        judge(folder, url)
    result = score_folder(folder, folder.parent.parent, compat=True)
    assert result.score is not None and result.original is not None
    assert (result.score.value, result.original.value) == (400.0, 5150.0)
    assert "4 of 8 rounds have no scores and do not count" in result.score.notes


def test_judges_are_kept_apart_and_a_torn_line_is_dropped(folder: Path) -> None:
    with serving(scores("8", "4")) as (url, got):
        judge(folder, url)
        file = folder / FILE
        file.write_bytes(file.read_bytes()[:-10])
        judge(folder, url)
        assert len(got) == 9
        judge(folder, url, model="other")
        assert len(got) == 17
    assert {json.loads(line)["judge"] for line in file.read_text().splitlines()} == {"j", "other"}
    result = score_folder(folder, folder.parent.parent)
    assert result.score is not None and "the judge is other" in result.score.notes[0]


def test_without_a_judge_there_is_no_score(folder: Path, tmp_path: Path) -> None:
    result = score_folder(folder, tmp_path)
    assert result.score is None and "no answer was judged yet" in result.notes[0]


def test_a_prompt_file_must_have_its_places(tmp_path: Path) -> None:
    file = tmp_path / "judge.json"
    file.write_text(json.dumps({"system": "s", "user": "{description} {question} {first}"}))
    with pytest.raises(EvaluationError, match="expected system, and user with"):
        JudgePrompt.from_file(file)
    file.write_text(json.dumps({"system": "s", "user": "{description} {question} {first} {second}"}))
    assert JudgePrompt.from_file(file).system == "s"
