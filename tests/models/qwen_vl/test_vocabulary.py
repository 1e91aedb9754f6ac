from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from paddlemix.errors import CheckpointError
from paddlemix.models.qwen_vl import vocabulary
from paddlemix.models.qwen_vl.vocabulary import load_vocabulary, read_ranks

BYTES = b"".join(base64.b64encode(bytes([n])) + b" %d\n" % n for n in range(256))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qwen.tiktoken"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 25\n", "is a Git LFS pointer.*lfs pull"),
        (b"<!doctype html>\n<title>Sign in</title>", "is an HTML page.*download it again"),
        (b'{"error": "Entry not found"}', "is a message of a server.*'Entry not found'"),
        (b"", "is empty; delete it"),
        (b"\x1f\x8b\x08\x00", "is compressed with gzip; unpack it"),
    ],
)  # fmt: skip
def test_what_is_no_vocabulary_is_named(path: Path, content: bytes, expected: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^vocabulary file {path} {expected}"):
        load_vocabulary(path)


def test_pipes_and_devices_are_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="^vocabulary file .* is a named pipe, expected a regular file"):
        load_vocabulary(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="^vocabulary file .* is a device, expected a regular file"):
        load_vocabulary(path)
    with pytest.raises(CheckpointError, match="^vocabulary file .* cannot be read"):
        load_vocabulary("a\0b")


def test_the_size_and_the_number_of_ranks_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(path, "wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(CheckpointError, match="it has 6442450944 bytes, expected at most 16777216"):
        load_vocabulary(path)
    path.write_bytes(BYTES)
    assert len(read_ranks(path)) == 256
    monkeypatch.setattr(vocabulary, "MAX_RANKS", 255)
    with pytest.raises(CheckpointError, match="has more than 255 ranks"):
        read_ranks(path)
