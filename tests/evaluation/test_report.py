from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from paddlemix.evaluation.records import Answer, ImageRef, Question, Score
from paddlemix.evaluation.report import write_report
from paddlemix.evaluation.report.cases import worst_questions
from paddlemix.evaluation.scoring import Result
from tests.evaluation.toys import COLORS, toy_benchmark, write_images


class Page(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def result(tmp_path: Path) -> Result:
    write_images(tmp_path)
    meta = {"bbox": (2, 3, 12, 20), "width": 24, "height": 24}
    questions = [
        Question(f"q{i}", "toy", "test", (ImageRef(str(tmp_path / f"{c}.png"), c), "<b>where?</b>"), metadata=meta)
        for i, c in enumerate(COLORS)
    ]
    answers = {q.id: Answer(q.id, "(100,100),(500,600)<script>x</script>") for q in questions}
    credit = {q.id: float(q.id == "q2") for q in questions}
    score = Score(
        "hits",
        16.7,
        "%",
        6,
        (3.0, 56.4),
        {"<small>": Score("hits", 0.0, "%", 3, (0.0, 56.1))},
        credit,
        {"mean": 3.2},
        ("a & b",),
    )
    return Result(toy_benchmark(), "test", questions, answers, score, replace(score, value=15.0), 60, {"model": "<m>"})


def test_the_page_has_scores_categories_and_cases_and_asks_nothing_of_anyone(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(path, [result], worst=3)
    text = path.read_text()
    page = Page(text)
    assert (
        page.tags.count("figure") == 3
        and "script" not in page.tags
        and "b" not in page.tags
        and "link" not in page.tags
    )
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"https?://", text)
    for words in (
        "16.70 %",
        "3.0 to 56.4",
        "15.00 %",
        "Qwen-VL 12.5 (+4.2)",
        "ours is a sample",
        "6 of 60",
        "a &amp; b",
    ):
        assert words in text, words
    assert text.count("class=true") == text.count("class=given") == 3


def test_the_worst_cases_are_those_without_credit_the_same_each_time(result: Result) -> None:
    worst = worst_questions(result, 10)
    assert len(worst) == 5 and "q2" not in {question.id for question in worst}
    assert worst[:2] == worst_questions(result, 2)


def test_an_image_that_is_gone_is_said(result: Result, tmp_path: Path) -> None:
    for color in COLORS:
        (tmp_path / f"{color}.png").unlink()
    write_report(tmp_path / "report.html", [result], worst=2)
    assert "does not exist" in (tmp_path / "report.html").read_text()
