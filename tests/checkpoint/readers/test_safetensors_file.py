from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.checkpoint.readers.safetensors_file import MAX_HEADER_BYTES, read_safetensors
from paddlemix.errors import CheckpointError
from tests.checkpoint.building import safetensors_bytes, write_safetensors

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def entry(start: int = 0, end: int = 48, shape: Any = (3, 4), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_tensors_and_metadata_come_back(path: Path) -> None:
    write_safetensors(path, {"a": VALUES, "b": VALUES[0].astype(np.float16)}, {"format": "pt"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"format": "pt"}
    np.testing.assert_array_equal(tensors["a"].load(), VALUES)
    np.testing.assert_array_equal(tensors["b"].load(), VALUES[0])


def test_file_of_the_safetensors_package_is_read(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": VALUES, "i": np.array([1, -2], np.int32), "empty": np.zeros((0, 3), np.float32)}, path)
    tensors, metadata = read_safetensors(path)
    assert metadata == {}
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "a": "float32", "i": "int32", "empty": "float32",
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["i"].load(), [1, -2])
    np.testing.assert_array_equal(tensors["a"].load(), VALUES)
    assert tensors["empty"].load().shape == (0, 3)


BODY = VALUES.tobytes()
CORRUPT = {
    "empty": b"",
    "short": b"\x01\x02",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of many exabytes": struct.pack("<Q", 2**63) + b"{}",
    "header over the limit": struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
    "header is a list": safetensors_bytes(b"[]"),
    "header begins with a space": safetensors_bytes(b" {}"),
    "header is not JSON": safetensors_bytes(b"{'a': 1}"),
    "header is not text": safetensors_bytes(b"{\xff\xfe}"),
    "header is nested deeply": safetensors_bytes(b'{"a":' + b"[" * 100_000),
    "duplicate tensors": safetensors_bytes(b'{"a":{"dtype":"F32"},"a":{"dtype":"F32"}}'),
    "duplicate fields": safetensors_bytes(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[12],"data_offsets":[0,48]}}', BODY
    ),
    "metadata is no table": safetensors_bytes({"__metadata__": [1]}),
    "metadata is not text": safetensors_bytes({"__metadata__": {"a": 1}}),
    "entry is no object": safetensors_bytes({"a": 3}),
    "field is missing": safetensors_bytes({"a": {"dtype": "F32", "shape": [12]}}, BODY),
    "unknown field": safetensors_bytes({"a": {**entry(), "code": "x"}}, BODY),
    "unknown dtype": safetensors_bytes({"a": entry(dtype="F8_X")}, BODY),
    "dtype is a list": safetensors_bytes({"a": entry(dtype=["F32"])}, BODY),
    "negative dimension": safetensors_bytes({"a": entry(shape=[-3, -4])}, BODY),
    "fractional dimension": safetensors_bytes({"a": entry(shape=[1.5, 8])}, BODY),
    "boolean dimension": safetensors_bytes({"a": entry(shape=[True, 12])}, BODY),
    "huge dimensions": safetensors_bytes({"a": entry(shape=[2**40, 2**40])}, BODY),
    "bytes do not fit the shape": safetensors_bytes({"a": entry(shape=[3, 5])}, BODY),
    "ends before it starts": safetensors_bytes({"a": entry(48, 0)}, BODY),
    "beyond the file": safetensors_bytes({"a": entry()}, BODY[:-1]),
    "bytes left over": safetensors_bytes({"a": entry()}, BODY + b"\0"),
    "overlap": safetensors_bytes({"a": entry(0, 48), "b": entry(24, 48, [6])}, BODY),
    "the same bytes twice": safetensors_bytes({"a": entry(), "b": entry()}, BODY),
    "hole": safetensors_bytes({"a": entry(0, 16, [4]), "b": entry(20, 48, [7])}, BODY),
    "hole at the start": safetensors_bytes({"a": entry(8, 48, [10])}, BODY),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_files_are_refused(path: Path, name: str) -> None:
    path.write_bytes(CORRUPT[name])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        read_safetensors(path)


@given(st.integers(0, 10**9), st.integers(0, 255))
def test_a_changed_byte_gives_tensors_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    write_safetensors(path, {"a": VALUES, "b": VALUES[1]}, {"format": "pt"})
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    try:
        tensors, _ = read_safetensors(path)
    except CheckpointError:
        return
    for tensor in tensors.values():
        assert tensor.load().shape == tensor.shape
