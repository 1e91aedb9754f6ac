"""torch's ``.bin`` files (zip with a pickle and one raw member per storage), read without torch and without running it.

A storage is a view of the mapped file, so tensors cost no memory until something copies them.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ..dtypes import STORAGE
from . import pickle_machine
from .pickle_machine import shown
from .tensor import StoredTensor, element_count, is_shape, map_file

#: names and shapes of 7B weights take a few hundred KB
MAX_PICKLE_BYTES = 64 << 20
_LEGACY_MAGIC = bytes.fromhex("8002 8a0a 6cfc 9c46 f920 6aa8 5019 2e")
# What zipfile raises on damaged files, depending on where the damage is.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclass(frozen=True)
class _Storage:
    dtype: str
    data: np.ndarray  # uint8


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


def read_torch_zip(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a torch ``.bin`` file by name. Raises CheckpointError or, for anything but weights, its subclass
    UnsafeCheckpointError."""
    data = map_file(path)
    if data[: len(_LEGACY_MAGIC)].tobytes() == _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path}: written by torch before 1.6 (or without its zip format), which is not read; "
            "load and save it again with a newer torch, or use safetensors"
        )
    members, prefix, program = _read_archive(path)
    if members.get(prefix + "byteorder") is not None:
        if _member(data, members[prefix + "byteorder"], path).tobytes() != b"little":
            raise CheckpointError(f"{path}: weights are big-endian, expected little-endian")

    def storage(reference: Any) -> _Storage:
        if not (isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage"):
            raise CheckpointError(f"{path}: unknown kind of reference in data.pkl, expected a storage")
        _, kind, key, _, count = reference
        if not isinstance(kind, pickle_machine.Symbol) or kind.name not in _STORAGES:
            raise CheckpointError(f"{path}: storage of unknown type in data.pkl")
        info = members.get(f"{prefix}data/{key}") if isinstance(key, str) else None
        if info is None:
            raise CheckpointError(f"{path}: storage {shown(key)} is missing from the file")
        dtype = _STORAGES[kind.name]
        if type(count) is not int or info.file_size != count * STORAGE[dtype].itemsize:
            raise CheckpointError(f"{path}: storage {shown(key)} does not have the bytes that its {dtype} count says")
        return _Storage(dtype, _member(data, info, path))

    def tensor(source: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        if not isinstance(source, _Storage) or type(offset) is not int or offset < 0:
            raise CheckpointError(f"{path}: tensor without a storage in data.pkl")
        if not is_shape(shape) or not is_shape(strides) or len(shape) != len(strides):
            raise CheckpointError(f"{path}: tensor with impossible shape or strides in data.pkl")
        available = source.data.size // STORAGE[source.dtype].itemsize
        count = element_count(shape)
        last = offset + sum((dim - 1) * stride for dim, stride in zip(shape, strides))
        if count and (last >= available or count > available):
            raise CheckpointError(f"{path}: tensor of shape {tuple(shape)} reaches beyond its storage of {available}")
        return _Tensor(source, offset, tuple(shape), tuple(strides))

    allowed: dict[tuple, Any] = {("torch", name): None for name in _STORAGES}
    allowed["collections", "OrderedDict"] = _ordered_dict
    allowed["torch._utils", "_rebuild_tensor_v2"] = tensor
    state = pickle_machine.load(program, allowed, str(path), storage)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise CheckpointError(f"{path}: entry {name!r:.80} is a {type(value).__name__}, expected a tensor")
        tensors[name] = StoredTensor(name, value.shape, value.storage.dtype, path.name, _view(value))
    return tensors


def _read_archive(path: Path) -> tuple[dict[str, zipfile.ZipInfo], str, np.ndarray]:
    """The members of the zip by name, the folder that they are in (with its slash), and the bytes of the pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise CheckpointError(f"{path}: not a torch file: {len(pickles)} members 'NAME/data.pkl', expected one")
            if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: data.pkl is larger than {MAX_PICKLE_BYTES} bytes")
            program = np.frombuffer(archive.read(pickles[0]), dtype=np.uint8)
    except CheckpointError:
        raise
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"{path}: truncated, damaged or not a torch file: {error}") from error
    return members, pickles[0][: -len("data.pkl")], program


def _ordered_dict() -> OrderedDict[str, Any]:
    return OrderedDict()


def _view(tensor: _Tensor) -> Any:
    kind = STORAGE[tensor.storage.dtype]

    def load() -> np.ndarray:
        if element_count(tensor.shape) == 0:
            return np.zeros(tensor.shape, kind)
        strides = [stride * kind.itemsize for stride in tensor.strides]
        return np.ndarray(tensor.shape, kind, tensor.storage.data, tensor.offset * kind.itemsize, strides)

    return load


def _member(data: np.ndarray, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """The bytes of an uncompressed zip member as a view of the mapped file."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise CheckpointError(f"{path}: member {info.filename!r} is compressed or encrypted; torch writes it plain")
    header = data[info.header_offset : info.header_offset + 30].tobytes()
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{path}: truncated or damaged at member {info.filename!r}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > len(data):
        raise CheckpointError(f"{path}: truncated: member {info.filename!r} ends beyond the file")
    return data[start : start + info.file_size]
