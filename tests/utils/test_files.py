"""Small files of a model directory are read strictly, and written so that they are whole or not there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.utils.files import (
    read_bytes,
    read_json,
    read_json_lines,
    read_json_object,
    read_text,
    replacing,
    strip_bom,
    write_json,
    write_text,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"名": [1, None]})
    assert read_json_object(tmp_path / "a.json") == {"名": [1, None]}
    assert "名" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_surrogate_that_stands_alone_is_written_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a\ud800": "\udfff你"})
    assert read_json_object(tmp_path / "a.json") == {"a\ud800": "\udfff你"}


def test_numbers_of_a_training_that_are_none_are_read_where_asked_for(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": float("inf")})
    assert read_json_object(tmp_path / "a.json", allow_nan=True) == {"loss": float("inf")}
    with pytest.raises(CheckpointError, match="JSON has no Infinity"):
        read_json_object(tmp_path / "a.json")


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_json_object(tmp_path / "a.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_anything_but_an_object_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="a.json"):
        read_json_object(tmp_path / "a.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_a_device_a_folder_and_a_socket_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    kinds = {"pipe": "a named pipe", "socket": "a socket", "/dev/zero": "a device", ".": "a directory"}
    for name, kind in kinds.items():
        with pytest.raises(ConfigurationError, match=f"cannot be read: it is {kind}, expected a regular file"):
            read_bytes(tmp_path / name, error=ConfigurationError)
    server.close()
    with pytest.raises(CheckpointError, match="pipe cannot be read: it is a named pipe"):
        read_json_object(tmp_path / "pipe")


def test_a_path_that_cannot_be_is_the_callers_error() -> None:
    for path in ("a\0b", "x" * 5000, "a/\ud800"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_bytes(path, error=ConfigurationError)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", limit=5, error=ConfigurationError) == b"12345"
    with pytest.raises(ConfigurationError, match="it has 5 bytes, expected at most 4 bytes"):
        read_bytes(tmp_path / "a", limit=4, error=ConfigurationError)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="it has 1099511627776 bytes"):
        read_json_object(tmp_path / "sparse")


def test_a_file_of_the_kernel_is_read_up_to_the_limit() -> None:
    assert b"Name:" in read_bytes("/proc/self/status", error=ConfigurationError)
    with pytest.raises(ConfigurationError, match="it has more, expected at most 8 bytes"):
        read_bytes("/proc/self/status", limit=8, error=ConfigurationError)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_text(tmp_path / "a", error=ConfigurationError) == '{"a": 1}'
    assert read_json_object(tmp_path / "a") == {"a": 1}
    assert list(read_json_lines(tmp_path / "a", limit=100, error=ConfigurationError)) == [(1, {"a": 1})]
    assert strip_bom("\ufeff/image a.png") == strip_bom("/image a.png") == "/image a.png"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "a").write_bytes(mark + "{}".encode(encoding))
    with pytest.raises(CheckpointError, match="is UTF-16 or UTF-32 text, expected UTF-8"):
        read_json(tmp_path / "a")


def test_what_lies_in_place_of_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(CheckpointError, match="config.json is an HTML page"):
        read_json_object(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="config.json is a Git LFS pointer"):
        read_json_object(tmp_path / "config.json")


def test_json_lines_are_numbered_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\r\n\n[2]\n{"b"')
    lines = read_json_lines(path, limit=100, error=ConfigurationError)
    assert [next(lines), next(lines)] == [(1, {"a": 1}), (3, [2])]
    with pytest.raises(ConfigurationError, match="a.jsonl:4: is no JSON: it ends in the middle"):
        next(lines)
    with pytest.raises(ConfigurationError, match="a.jsonl:1: 9 characters, expected at most 8 in a line"):
        next(read_json_lines(path, limit=100, line_limit=8, error=ConfigurationError))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (lambda path: write_text(path, "a"), lambda path: write_json(path, {})):
        with pytest.raises(OSError, match="pipe"):
            write(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
