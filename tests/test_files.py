"""Small files of a model directory are read strictly, and written so that they are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paddlemix.errors import CheckpointError
from paddlemix.files import read_json_object, replacing, write_json


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"名": [1, None]})
    assert read_json_object(tmp_path / "a.json") == {"名": [1, None]}
    assert "名" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_json_object(tmp_path / "a.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_anything_but_an_object_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="a.json"):
        read_json_object(tmp_path / "a.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
