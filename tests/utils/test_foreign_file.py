from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from paddlemix.utils.foreign_file import foreign_content

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
S3 = b"""<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>"""
AGAIN = "; delete it and download it again"


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return buffer.getvalue()


EVERYWHERE = [
    (POINTER, "is a Git LFS pointer, not the file itself; fetch it in that folder with: git lfs pull"),
    (b"", "is empty" + AGAIN),
    (bytes(100), "begins with zeros, as a download does that was broken off" + AGAIN),
    (b"\n <!DOCTYPE html>\n<html>", "is an HTML page, of a login or an error, not the file itself" + AGAIN),
    (b"\xef\xbb\xbf<!-- a --><HTML lang=en>" + b"x" * 10_000, "is an HTML page"),
    (b"<script>location='/login'</script>", "is an HTML page"),
    (S3, "is an XML answer of a server, not the file itself: 'NoSuchKey'" + AGAIN),
    (b"<Error></Error>", "is an XML answer of a server, not the file itself: no reason given"),
    (b'{"error":"no such model"}', "is a message of a server, not the file itself: 'no such model'" + AGAIN),
    (b'{"Code": 10010205001, "Message": "file not exist", "RequestId": "a", "Success": false}', ": 'file not exist'"),
    (b'{"detail": [1]}', """: '{"detail": [1]}'"""),
    (b"Entry not found", ": 'Entry not found'"),
    (b"404: Not Found", ": '404: Not Found'"),
    (b"Access to model Qwen/Qwen-VL is restricted.", ": 'Access to model Qwen/Qwen-VL is restricted.'"),
    (b'{"message": "\\u001b[2J"}', ": '\\x1b[2J'"),
    (gzip.compress(b"a" * 100, mtime=0), "is compressed with gzip; unpack it with gunzip"),
    (bz2.compress(b"a" * 100), "is compressed with bzip2; unpack it with bunzip2"),
    (lzma.compress(b"a" * 100), "is compressed with xz; unpack it with unxz"),
    (tar(), "is a tar archive; unpack it with tar -xf"),
    (b"GGUF\x03\x00\x00\x00", "is a GGUF file, of llama.cpp; use the model's weights in safetensors"),
]  # fmt: skip


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("content", "expected"), EVERYWHERE, ids=range(len(EVERYWHERE)))
def test_what_lies_in_place_of_a_file_is_named(content: bytes, expected: str, text: bool) -> None:
    found = foreign_content(content, text=text)
    assert found is not None and expected in found


def test_weights_are_no_text_and_text_is_no_archive() -> None:
    assert foreign_content(b"please log in", text=True) is None
    assert "is a message of a server, not the file itself: 'please log in'" in str(
        foreign_content(b"please log in", text=False)
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    assert foreign_content(archive.getvalue(), text=True) == "is a zip archive; unpack it with unzip"
    assert foreign_content(archive.getvalue(), text=False) is None  # torch's weights are one


@pytest.mark.parametrize(
    "content",
    [
        b"IQ== 0\nIg== 1\n",
        b"BZh5 0\n",
        b"GGUF 0\n",
        b'{"hidden_size": 8, "error": 1}',
        b"{}",
        b"[",
        b'{"weight_map": {}, "metadata": {}}',
        b'{"a":' + b"[" * 4000,
    ],
)
def test_text_of_a_model_is_left_alone(content: bytes) -> None:
    assert foreign_content(content, text=True) is None


def test_weights_are_left_alone(golden_dir: Path) -> None:
    weights = [path for path in (golden_dir / "model").rglob("*") if path.suffix in (".safetensors", ".bin")]
    assert weights
    for path in weights:
        assert foreign_content(memoryview(np.memmap(path, np.uint8, "r")), text=False) is None
