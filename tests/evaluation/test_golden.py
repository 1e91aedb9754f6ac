"""The metrics agree with the golden files, and the program that says so does not say it of anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlemix.evaluation.metrics.caption_tokens import has_java
from tests.evaluation import check_golden
from tests.evaluation.golden_kinds import KINDS

GOLDEN = Path(__file__).parent / "golden"
needs_java = pytest.mark.skipif(not has_java(), reason="caption tokens are defined by a Java program")


def change(value: object) -> object:
    """Another value of the same form."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return "changed"


def leaves(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [leaf for key, part in items for leaf in leaves(part, (*path, key))]
    return inner if inner or isinstance(value, (dict, list)) else [path]


def without_meteor(name: str) -> dict:
    golden = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    golden["expected"] = {key: value for key, value in golden["expected"].items() if "METEOR" not in key}
    return golden


def test_there_is_a_file_of_each_kind() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == sorted(KINDS)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(check_golden.NEEDS_JAVA)))
def test_metrics_agree_with_the_golden_file(kind: str) -> None:
    assert check_golden.check_file(GOLDEN / f"{kind}.json") == []


@needs_java
def test_caption_tokens_agree_with_the_golden_file() -> None:
    assert check_golden.check_file(GOLDEN / "caption_tokens.json") == []


@needs_java
def test_caption_metrics_agree_with_the_golden_file(tmp_path: Path) -> None:
    path = tmp_path / "caption.json"
    path.write_text(json.dumps(without_meteor("caption.json")), encoding="utf-8")
    assert check_golden.check_file(path) == []


@needs_java
@pytest.mark.slow
def test_meteor_agrees_with_the_golden_file() -> None:
    assert check_golden.check_file(GOLDEN / "caption.json") == []


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(check_golden.NEEDS_JAVA)))
def test_another_number_is_a_difference(kind: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))
    path = tmp_path / f"{kind}_changed.json"
    key = "expected" if "expected" in golden else "records"
    *parents, last = [leaf for leaf in leaves(golden[key]) if leaf[-1] not in ("total", "world_size")][-1]
    holder = golden[key]
    for parent in parents:
        holder = holder[parent]
    holder[last] = change(holder[last])
    path.write_text(json.dumps(golden), encoding="utf-8")
    assert len(check_golden.check_file(path)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spice.json", "{}"),
        ("anls.json", "{}"),
        ("anls.json", '{"records": ['),
        ("relaxed_accuracy.json", '{"records": [], "expected": {"third_definition": {}}}'),
        ("mme.json", '{"records": [], "expected": {}}'),
    ],
)
def test_a_file_that_cannot_be_checked_is_refused(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert check_golden.main([str(tmp_path)]) == 2
    assert f"{name}: not checked: " in capsys.readouterr().out


def test_the_program_says_what_agrees_and_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = json.loads((GOLDEN / "anls.json").read_text(encoding="utf-8"))
    (tmp_path / "anls.json").write_text(json.dumps(golden), encoding="utf-8")
    assert check_golden.main([str(tmp_path)]) == 0
    golden["expected"]["anls"] += 0.1
    (tmp_path / "held_back.anls.json").write_text(json.dumps(golden), encoding="utf-8")
    assert check_golden.main([str(tmp_path)]) == 1
    assert "anls.json: agrees" in capsys.readouterr().out
    assert check_golden.main([]) == 2
