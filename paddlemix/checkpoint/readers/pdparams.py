"""Paddle's ``.pdparams`` files: a pickled dict of NumPy arrays, read without ``pickle`` and mostly mapped.

Paddle stores bfloat16 as ``uint16``, and cuts arrays of more than 1 GiB into pieces when it writes pickle protocol 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np

from ...errors import CheckpointError
from ..dtypes import STORAGE
from . import pickle_machine
from .pickle_machine import Buildable, Span, shown
from .tensor import StoredTensor, element_count, is_shape, map_file

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
        fields = state[1:5] if isinstance(state, tuple) and len(state) >= 8 else None
        if fields not in (("<", None, None, None), ("|", None, None, None)):
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
    if encoding != "latin1" or not isinstance(text, (str, Span)):
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
    ("collections", "OrderedDict"): dict,
}


def read_pdparams(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a ``.pdparams`` file by name. Raises CheckpointError or its subclass UnsafeCheckpointError."""
    data = map_file(path)
    state = pickle_machine.load(data, _ALLOWED, str(path))
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a dict of arrays")
    state.pop(_NAME_TABLE, None)
    cut = state.pop(_CUT_ARRAYS, {})
    tensors = {}
    for name, pieces, shape in _whole_arrays(cut, state, path):
        tensors[name] = _tensor(name, pieces, shape, data, path)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Array):
            raise CheckpointError(f"{path}: entry {name!r:.80} is a {type(value).__name__}, expected an array")
        tensors[name] = _tensor(name, [value], value.shape, data, path)
    return tensors


def _whole_arrays(cut: Any, state: dict[str, Any], path: Path) -> list[tuple]:
    """(name, pieces, shape) of the arrays that were cut; takes the pieces out of ``state``."""
    whole = []
    try:
        for name, info in cut.items():
            whole.append((name, [state.pop(piece) for piece in info["slices"]], tuple(info["OriginShape"])))
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the pieces of a large array are incomplete") from error
    return whole


def _tensor(name: str, pieces: list[Any], shape: tuple, data: np.ndarray, path: Path) -> StoredTensor:
    if not isinstance(name, str) or not is_shape(shape):
        raise CheckpointError(f"{path}: entry {shown(name)} has no name or an impossible shape")
    # an array without a tag was named, but never given its state
    if not pieces or not all(isinstance(piece, _Array) and piece.tag for piece in pieces):
        raise CheckpointError(f"{path}: {name!r:.80} is not made of arrays")
    tag, kind = pieces[0].tag, STORAGE[pieces[0].tag]
    if any(piece.tag != tag for piece in pieces) or sum(element_count(p.shape) for p in pieces) != element_count(shape):
        raise CheckpointError(f"{path}: the pieces of {name!r} do not make up {shape}")
    for piece in pieces:
        size, expected = len(_raw(piece, data)), element_count(piece.shape) * kind.itemsize
        if not _is_text(piece) and size != expected:
            raise CheckpointError(f"{path}: {name!r} has {size} bytes, expected {expected} for {shape} of {tag}")

    def load() -> np.ndarray:
        if len(pieces) == 1:
            return _values(pieces[0], kind, data, path).reshape(shape, order="F" if pieces[0].fortran else "C")
        return np.concatenate([_values(piece, kind, data, path) for piece in pieces]).reshape(shape)

    return StoredTensor(name, shape, tag, path.name, load)


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
