from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from paddlemix.checkpoint.readers.guard import reading
from paddlemix.checkpoint.readers.pdparams import read_pdparams
from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.checkpoint.readers.torch_zip import read_torch_zip
from paddlemix.errors import CheckpointError, NotEnoughMemoryError
from tests.checkpoint.building import open_checkpoint, write_pdparams, write_safetensors, write_torch

READERS = {"safetensors": read_safetensors, "bin": read_torch_zip, "pdparams": read_pdparams}
VALUES = {"a": np.arange(100_000, dtype=np.float32), "b": np.ones(3, np.float32)}


def write(path: Path) -> Path:
    {"safetensors": write_safetensors, "bin": write_torch, "pdparams": write_pdparams}[path.suffix[1:]](path, VALUES)
    return path


def read(path: Path) -> dict:
    found = READERS[path.suffix[1:]](path)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "is a Git LFS pointer.*lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is an HTML page.*download it again"),
        (b'{"error": "Invalid username or password."}', "a message of a server.*'Invalid username or password.'"),
        (b"Entry not found", "a message of a server.*'Entry not found'"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "is compressed with gzip; unpack it with gunzip"),
        (bytes(5000), "begins with zeros.*download it again"),
        (b"", "is empty; delete it and download it again"),
    ],
)  # fmt: skip
def test_what_is_no_weights_is_named(tmp_path: Path, kind: str, content: bytes, expected: str) -> None:
    path = tmp_path / f"model.{kind}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}.* {expected}"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"model.{kind}"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is a named pipe, expected a regular file"):
        READERS[kind](path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is a device, expected a regular file"):
        READERS[kind](path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="is a directory, expected a regular file"):
        READERS[kind](path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model_state.pdparams"])
def test_a_pipe_in_a_folder_is_named(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is a named pipe"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_cut_short_while_it_is_read_is_told(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"model.{kind}")
    tensors = read(path)
    size = path.stat().st_size
    os.truncate(path, 100)
    with pytest.raises(CheckpointError, match=f"was cut from {size} to 100 bytes while it was read"):
        tensors["a"].load()


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_was_replaced_or_removed_is_read_as_it_was(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"model.{kind}")
    tensors = read(path)
    path.unlink()
    np.testing.assert_array_equal(tensors["a"].load(), VALUES["a"])
    assert not tensors["a"].load().flags.writeable or kind == "pdparams"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("x"), r"m.bin, byte 7: damaged or truncated \(KeyError: 'x'\)"),
        (ValueError("a\x1b[2J\nb" + "c" * 1000), r"m.bin, byte 7: damaged or truncated \(ValueError: a\\x1b\[2J bc+\)"),
        (RecursionError(), r"m.bin, byte 7: damaged or truncated \(RecursionError\)"),
        (MemoryError(), "m.bin, byte 7: needs more memory than there is to be read"),
        (CheckpointError("as it is"), "as it is"),
    ],
)  # fmt: skip
def test_every_exception_in_a_reader_names_the_file_and_the_place(error: Exception, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{message}$") as caught:
        with reading("m.bin", lambda: "byte 7"):
            raise error
    assert len(str(caught.value)) < 300


def test_errors_of_this_package_and_interrupts_pass_as_they_are() -> None:
    for kind in (NotEnoughMemoryError, KeyboardInterrupt):
        with pytest.raises(kind):
            with reading("m.bin"):
                raise kind
