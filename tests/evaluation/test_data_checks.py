"""What is missing, damaged or of another size is said, with where to get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.cli.main import main
from paddlemix.evaluation.benchmarks import BENCHMARKS, Split
from paddlemix.evaluation.data import checks
from paddlemix.evaluation.data.checks import check_data, sha256
from paddlemix.evaluation.data.sources import SOURCES, source_line
from tests.evaluation import small_data, small_sources


def test_every_benchmark_has_a_source() -> None:
    assert sorted(SOURCES) == sorted(BENCHMARKS)
    assert source_line("gqa").startswith("https://cs.stanford.edu/people/dorarad/gqa/download.html; testdev_balanced")


def test_missing_files_are_named_with_their_source(tmp_path: Path) -> None:
    for name in BENCHMARKS:
        report = check_data(name, None, tmp_path)
        assert report.is_whole == (name == "easy-vqa")
        assert "\n" not in "".join(report.lines)
        if name != "easy-vqa":
            assert " is missing" in report.lines[0]
            assert any(line.endswith(source_line(name)) for line in report.lines)
            assert ("--convert DIR" in report.lines[-1]) == (name not in ("grit", "scenes"))


def test_counts_and_images_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_data.write_all(tmp_path)
    report = check_data("gqa", None, tmp_path)
    assert not report.is_whole
    assert f"gqa:testdev: {tmp_path}/gqa/testdev_balanced.jsonl is there, sha256 " in report.lines[0]
    assert report.lines[1].endswith("gqa/train.jsonl is missing; only questions with examples (--shots) need it")
    assert report.lines[2:4] == ("gqa:testdev: 6 questions, expected 12,578", "gqa:testdev: 3 images, expected 398")
    monkeypatch.setitem(BENCHMARKS["gqa"].splits, "testdev", Split("testdev", ("gqa/testdev_balanced.jsonl",), 6, 3))
    assert check_data("gqa", None, tmp_path).is_whole
    (tmp_path / "pictures/1.png").unlink()
    report = check_data("gqa", None, tmp_path)
    assert not report.is_whole
    assert f"gqa:testdev: 1 of the images are missing: {tmp_path}/pictures/1.png" in report.lines


def test_damage_is_a_line(tmp_path: Path) -> None:
    small_data.write_all(tmp_path)
    (tmp_path / "gqa/testdev_balanced.jsonl").write_text('{"image": "x"\n', encoding="utf-8")
    report = check_data("gqa", None, tmp_path)
    assert not report.is_whole
    assert "testdev_balanced.jsonl:1: is no JSON" in " ".join(report.lines)


def test_the_questions_of_easy_vqa_are_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_data("easy-vqa", "train", tmp_path).is_whole
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    monkeypatch.setattr(checks, "_easy_vqa_file", lambda split: tmp_path / "other.json")
    report = check_data("easy-vqa", None, tmp_path)
    assert not report.is_whole
    assert report.lines[-1].endswith("the questions are not those of easy-vqa 1.0, by their sha256")


def test_sums_are_those_of_other_tools(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_command_converts_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_sources.ocrvqa(tmp_path / "source", tmp_path / "mirror")
    where = ["--data_dir", str(tmp_path / "data")]
    assert main(["evaluate", "data", "ocrvqa", *where, "--convert", str(tmp_path / "mirror")]) == 0
    assert main(["evaluate", "data", "ocrvqa", *where]) == 0
    assert "ocrvqa: 2 records made from" in capsys.readouterr().out
