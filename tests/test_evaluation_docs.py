"""The pages about evaluation say what is true, in both languages."""

from __future__ import annotations

import re

from docs import evaluation_tables
from tests.test_readme import blocks, prose

PAGES = ("docs/evaluation.md", "docs/evaluation_cn.md")


def test_the_generated_tables_are_up_to_date() -> None:
    for language, path in evaluation_tables.PAGES.items():
        text = path.read_text(encoding="utf-8")
        assert text == evaluation_tables.with_tables(text, language), "run python docs/evaluation_tables.py"


def test_both_pages_have_the_same_tables() -> None:
    rows = [re.findall(r"^\|", prose(page), re.MULTILINE) for page in PAGES]
    assert len(rows[0]) == len(rows[1]) > 100


def test_the_examples_of_the_tables_are_the_same() -> None:
    converting = [[block for block in blocks(page, "bash") if "--convert" in block] for page in PAGES]
    assert converting[0] == converting[1] != []
