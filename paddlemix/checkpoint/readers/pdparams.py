"""Paddle's ``.pdparams`` files: a pickled dict of NumPy arrays, read without ``pickle`` and mostly mapped.

Paddle stores bfloat16 as ``uint16``, and cuts arrays of more than 1 GiB into pieces when it writes pickle protocol 2.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ...errors import CheckpointError
from ..dtypes import STORAGE
from . import pickle_machine
from .guard import reading
from .pickle_machine import Buildable, Span, hint, shown
from .tensor import MappedFile, StoredTensor, element_count, is_shape

_NAME_TABLE = "StructuredToParameterName@@"
_CUT_ARRAYS = "UnpackBigParamInfor@@"
_DTYPES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "u2": "bfloat16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}
_DECODE_CHUNK = 16 << 20


class _Dtype(Buildable):
    """Stands for numpy.dtype: a plain little-endian element type."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code not in _DTYPES:
            raise CheckpointError(f".pdparams: array of dtype {shown(code)}, expected one of {', '.join(_DTYPES)}")
        self.tag = _DTYPES[code]

    def build(self, state: Any) -> None:
        order, *structure = state[1:5] if isinstance(state, tuple) and len(state) >= 8 else (None,)
        if not isinstance(order, str) or order not in "<|" or any(field is not None for field in structure):
            raise CheckpointError(".pdparams: array of structured or big-endian dtype, expected plain little-endian")


class _Array(Buildable):
    """Stands for numpy.ndarray: shape and type, and where in the file its bytes are."""

    def __init__(self, kind: Any = None, *_: Any) -> None:
        self.shape: tuple = ()
        self.tag, self.fortran = "", False
        self.data: Any = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise CheckpointError(".pdparams: array with an unknown kind of state")
        _, self.shape, dtype, self.fortran, self.data = state
        if not is_shape(self.shape) or not isinstance(dtype, _Dtype):
            raise CheckpointError(".pdparams: array with an impossible shape or dtype")
        self.shape = tuple(self.shape)
        if not isinstance(self.data, (bytes, Span)):
            raise CheckpointError(".pdparams: array without plain bytes")
        self.tag = dtype.tag


def _encode(text: Any, encoding: Any) -> Any:
    """Stands for _codecs.encode, the way protocol 2 writes bytes: as text whose code points are the bytes."""
    if not isinstance(encoding, str) or encoding != "latin1" or not isinstance(text, (str, Span)):
        raise CheckpointError(".pdparams: text with an encoding other than latin1")
    try:
        return text.encode("latin1") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise CheckpointError(".pdparams: array bytes are damaged") from error


_ALLOWED: dict[tuple, Callable[..., Any] | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): lambda: OrderedDict(),  # its arguments would be hashed
}


def read_pdparams(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a ``.pdparams`` file by name.

    Raises:
        CheckpointError: it is damaged.
        UnsafeCheckpointError: it holds anything but weights.
    """
    file = MappedFile(path)
    with reading(path):
        return _tensors(file)


def _tensors(file: MappedFile) -> dict[str, StoredTensor]:
    state = pickle_machine.load(file.data, _ALLOWED, str(file.path))
    if not isinstance(state, dict):
        raise CheckpointError(f"{file.path}: holds a {type(state).__name__}, expected a dict of arrays")
    state.pop(_NAME_TABLE, None)
    cut = state.pop(_CUT_ARRAYS, {})
    if not isinstance(cut, dict):
        raise CheckpointError(f"{file.path}: {_CUT_ARRAYS} is a {type(cut).__name__}, expected a dict")
    tensors = {}
    for name, info in cut.items():
        pieces, shape = _whole_array(name, info, state, file.path)
        tensors[name] = _tensor(name, pieces, shape, file)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Array):
            raise CheckpointError(
                f"{file.path}: entry {shown(name)} is a {type(value).__name__}, expected an array" + hint(value)
            )
        tensors[name] = _tensor(name, [value], value.shape, file)
    return tensors


def _whole_array(name: Any, info: Any, state: dict[Any, Any], path: Path) -> tuple[list[Any], tuple]:
    """Pieces and shape of an array that was cut; takes the pieces out of ``state``."""
    pieces, shape = (info.get("slices"), info.get("OriginShape")) if isinstance(info, dict) else (None, None)
    if not isinstance(pieces, list) or not is_shape(shape):
        raise CheckpointError(f"{path}: entry {shown(name)} has no list of pieces, or an impossible shape")
    if not all(isinstance(piece, str) and piece in state for piece in pieces) or len(set(pieces)) < len(pieces):
        raise CheckpointError(f"{path}: the pieces of {shown(name)} are incomplete")
    return [state.pop(piece) for piece in pieces], tuple(shape)


def _tensor(name: Any, pieces: list[Any], shape: tuple, file: MappedFile) -> StoredTensor:
    path, data = file.path, file.data
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: entry {shown(name)} has no name")
    # an array without a tag was named, but never given its state
    if not pieces or not all(isinstance(piece, _Array) and piece.tag for piece in pieces):
        raise CheckpointError(f"{path}: {shown(name)} is not made of arrays")
    tag, kind = pieces[0].tag, STORAGE[pieces[0].tag]
    if any(piece.tag != tag for piece in pieces) or sum(element_count(p.shape) for p in pieces) != element_count(shape):
        raise CheckpointError(f"{path}: the pieces of {shown(name)} do not make up {list(shape)}")
    for piece in pieces:
        size, expected = len(_raw(piece, data)), element_count(piece.shape) * kind.itemsize
        # as text, a byte takes one or two
        if not (expected <= size <= 2 * expected if _is_text(piece) else size == expected):
            raise CheckpointError(
                f"{path}: {shown(name)} has {size} bytes, expected {expected} for {list(shape)} of {tag}"
            )

    def values() -> np.ndarray:
        if len(pieces) == 1:
            return _values(pieces[0], kind, data, path).reshape(shape, order="F" if pieces[0].fortran else "C")
        return np.concatenate([_values(piece, kind, data, path) for piece in pieces]).reshape(shape)

    return StoredTensor(name, shape, tag, path.name, file.loader(name, values))


def _is_text(piece: _Array) -> bool:
    return isinstance(piece.data, Span) and piece.data.is_text


def _raw(piece: _Array, data: np.ndarray) -> np.ndarray:
    if isinstance(piece.data, Span):
        return data[piece.data.start : piece.data.start + piece.data.length]
    return np.frombuffer(piece.data, np.uint8)


def _values(piece: _Array, kind: np.dtype, data: np.ndarray, path: Path) -> np.ndarray:
    raw = _raw(piece, data)
    if _is_text(piece):
        raw = _from_latin1_text(raw, element_count(piece.shape) * kind.itemsize, path)
    return raw.view(kind)


def _from_latin1_text(text: np.ndarray, size: int, path: Path) -> np.ndarray:
    """UTF-8 text of code points below 256 -> those code points as bytes, ``size`` of them, chunk by chunk."""
    out = np.empty(size, np.uint8)
    done, at = 0, 0
    while at < len(text):
        end = min(at + _DECODE_CHUNK, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # never cut a character
            end += 1
        try:
            chunk = text[at:end].tobytes().decode("utf-8").encode("latin1")
        except UnicodeError as error:
            raise CheckpointError(f"{path}: the bytes of an array are damaged") from error
        if done + len(chunk) > size:
            raise CheckpointError(f"{path}: an array has more bytes than its shape says")
        out[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done, at = done + len(chunk), end
    if done != size:
        raise CheckpointError(f"{path}: an array has {done} bytes, its shape says {size}")
    return out
