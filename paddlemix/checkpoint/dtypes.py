"""Element types of checkpoints.

NumPy has no bfloat16: such tensors are arrays of ``uint16`` (the bits) with the tag "bfloat16".
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigurationError

#: tag -> NumPy type that holds it
STORAGE: dict[str, np.dtype] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
FLOATING = ("float64", "float32", "float16", "bfloat16")
#: what weights can be converted to, and models run in
TARGETS = ("bfloat16", "float16", "float32")
#: what cached keys and values can be held in, where not in the dtype of the activations
KV_CACHE_DTYPES = ("bfloat16", "float32")

#: tag -> code in a safetensors header, and back
TO_SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
FROM_SAFETENSORS = {code: tag for tag, code in TO_SAFETENSORS.items()}


def check_target(dtype: str) -> str:
    """``dtype`` if weights can be converted to it."""
    if dtype not in TARGETS:
        raise ConfigurationError(f"dtype: got {dtype!r}, expected one of {', '.join(TARGETS)}")
    return dtype


def to_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    """Floating values tagged ``dtype`` as float32 (float32 itself: no copy)."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def from_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as ``dtype``, rounded to nearest even; too large ones become infinite, NaN stays NaN."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array).view(np.uint32)
        rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
        # a NaN's payload must not be rounded away to infinity
        return np.where(np.isnan(array), (bits >> 16).astype(np.uint16) | np.uint16(0x40), rounded)
    with np.errstate(over="ignore"):
        return array.astype(STORAGE[dtype])


def cast(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Values tagged ``source`` as ``target``; the same array where they are equal or where it holds integers."""
    if source == target or source not in FLOATING:
        return array
    return from_float32(to_float32(array, source), target)


def count_non_finite(array: np.ndarray, dtype: str) -> int:
    """Number of NaN and infinite elements of an array tagged ``dtype``."""
    if dtype not in FLOATING:
        return 0
    if dtype == "bfloat16":
        return int(np.count_nonzero((array & np.uint16(0x7F80)) == 0x7F80))
    if dtype == "float16":
        return int(np.count_nonzero((array.view(np.uint16) & np.uint16(0x7C00)) == 0x7C00))
    return int(array.size - np.count_nonzero(np.isfinite(array)))
