"""What every reader yields: the whereabouts of a tensor, read on demand from a mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

from ...errors import CheckpointError


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. ``load()`` gives a read-only array; where the file allows, a view of its pages (no copy)."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # tag of paddlemix.checkpoint.dtypes
    file: str
    load: Callable[[], np.ndarray]
    offset: int | None = None  # where its bytes begin in the file, if they lie there as they are


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file as a read-only uint8 array over its mapped pages."""
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: file is empty, expected weights; fetch or copy it again")
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def map_writable(path: Path, offset: int, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """A tensor in a file as an array over its mapped pages. Writing to it changes neither the file nor other maps; it
    is writable because Paddle takes no other arrays without a copy."""
    try:
        return np.memmap(path, dtype=kind, mode="c", offset=offset, shape=shape).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be mapped: {error}") from error


def element_count(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor of ``shape``; exact, whatever the shape claims."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def is_shape(value: object) -> bool:
    """Whether ``value``, out of an untrusted file, is a list or tuple of at most 32 plain non-negative ints."""
    if not isinstance(value, (list, tuple)) or len(value) > 32:
        return False
    return all(type(dim) is int and 0 <= dim < 2**48 for dim in value)
