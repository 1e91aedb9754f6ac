"""torch's ``.bin`` files (zip with a pickle and one raw member per storage), read without torch and without running it.

A storage is a view of the mapped file, so tensors cost no memory until something copies them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...utils.display import one_line, quoted
from ..dtypes import STORAGE
from . import pickle_machine
from .guard import reading
from .pickle_machine import hint, shown
from .tensor import MappedFile, StoredTensor, element_count, is_shape
from .torch_names import STORAGES, TORCH_NAMES, means_nothing, rebuild_with

#: names and shapes of 7B weights take a few hundred KB
MAX_PICKLE_BYTES = 8 << 20
#: of the list of members and the pickle, as they lie in the file
MAX_ARCHIVE_BYTES = 8 << 20
_LEGACY_MAGIC = bytes.fromhex("8002 8a0a 6cfc 9c46 f920 6aa8 5019 2e")
# What zipfile raises on damaged files, depending on where the damage is.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip


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
    """All tensors of a torch ``.bin`` file by name.

    Raises:
        CheckpointError: it is damaged.
        UnsafeCheckpointError: it holds anything but weights.
    """
    file = MappedFile(path)
    with reading(path):
        return _tensors(file)


def _tensors(file: MappedFile) -> dict[str, StoredTensor]:
    path, data = file.path, file.data
    if data[: len(_LEGACY_MAGIC)].tobytes() == _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path}: written by torch before 1.6 (or without its zip format), which is not read; "
            "load and save it again with a newer torch, or use safetensors"
        )
    members, prefix, program = _read_archive(file)
    if members.get(prefix + "byteorder") is not None:
        if _member(data, members[prefix + "byteorder"], path).tobytes() != b"little":
            raise CheckpointError(f"{path}: weights are big-endian, expected little-endian")

    def storage(reference: Any) -> _Storage:
        if not (isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage"):
            raise CheckpointError(f"{path}: unknown kind of reference in data.pkl, expected a storage")
        _, kind, key, _, count = reference
        if not isinstance(kind, pickle_machine.Symbol) or kind.name not in STORAGES:
            raise CheckpointError(f"{path}: storage of unknown type in data.pkl")
        info = members.get(f"{prefix}data/{key}") if isinstance(key, str) else None
        if info is None:
            raise CheckpointError(f"{path}: storage {shown(key)} is missing from the file")
        dtype = STORAGES[kind.name]
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
            raise CheckpointError(f"{path}: tensor of shape {list(shape)} reaches beyond its storage of {available}")
        return _Tensor(source, offset, tuple(shape), tuple(strides))

    allowed = {
        **TORCH_NAMES,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
    }
    allowed["torch._tensor", "_rebuild_from_type_v2"] = rebuild_with(allowed)
    state = pickle_machine.load(program, allowed, str(path), storage)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    tensors = {}
    for name, value in state.items():
        if isinstance(name, str) and means_nothing(value):
            continue
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise CheckpointError(
                f"{path}: entry {shown(name)} is a {type(value).__name__}, expected a tensor" + hint(value)
            )
        load = file.loader(name, _view(value))
        tensors[name] = StoredTensor(name, value.shape, value.storage.dtype, path.name, load)
    return tensors


class _Budgeted(io.RawIOBase):
    """The bytes of a file for ``zipfile``, which reads its list of members in one piece, however long it is."""

    def __init__(self, file: MappedFile) -> None:
        self._bytes, self._path, self._at, self._left = file.data.data, file.path, 0, MAX_ARCHIVE_BYTES

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._bytes)}[whence]
        if start + offset < 0:
            raise ValueError("a place before the beginning of the file")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        rest = max(0, len(self._bytes) - self._at)
        count = rest if size is None or size < 0 else min(size, rest)
        self._left -= count
        if self._left < 0:
            raise CheckpointError(
                f"{self._path}: its list of members and data.pkl take more than {MAX_ARCHIVE_BYTES} bytes, and weights "
                "need some hundred for a tensor; refused"
            )
        self._at += count
        return bytes(self._bytes[self._at - count : self._at])


def _read_archive(file: MappedFile) -> tuple[dict[str, zipfile.ZipInfo], str, np.ndarray]:
    """The members of the zip by name, the folder that they are in (with its slash), and the bytes of the pickle."""
    path = file.path
    try:
        with zipfile.ZipFile(_Budgeted(file)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise CheckpointError(f"{path}: not a torch file: {len(pickles)} members 'NAME/data.pkl', expected one")
            info = members[pickles[0]]
            if info.file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(
                    f"{path}: data.pkl has {info.file_size} bytes, expected at most {MAX_PICKLE_BYTES}; refused"
                )
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise CheckpointError(
                    f"{path}: data.pkl is compressed by method {info.compress_type}; torch writes it plain"
                )
            with archive.open(info) as member:
                program = np.frombuffer(member.read(info.file_size + 1), dtype=np.uint8)
    except CheckpointError:
        raise
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"{path}: truncated, damaged or not a torch file: {one_line(error)}") from error
    return members, pickles[0][: -len("data.pkl")], program


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
        raise CheckpointError(
            f"{path}: member {quoted(info.filename)} is compressed or encrypted; torch writes it plain"
        )
    header = data[info.header_offset : info.header_offset + 30].tobytes()
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{path}: truncated or damaged at member {quoted(info.filename)}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > len(data):
        raise CheckpointError(f"{path}: truncated: member {quoted(info.filename)} ends beyond the file")
    return data[start : start + info.file_size]
