"""What every reader yields: the whereabouts of a tensor, read on demand from a mapped file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import numpy as np

from ...errors import CheckpointError
from ...utils.display import quoted
from ...utils.files import open_regular, reason
from ...utils.foreign_file import foreign_content
from .guard import reading

if TYPE_CHECKING:
    from typing_extensions import TypeGuard  # in typing from Python 3.10 on


class MappedFile:
    """The bytes of a file of weights as a read-only uint8 array, ``data``, over its mapped pages.

    What is written over the file shows in the array. Where somebody cuts it short, touching the pages that are gone
    ends the process, which nobody can catch; so the length is asked for again before each tensor.
    """

    def __init__(self, path: Path) -> None:
        """Map ``path``.

        Raises:
            CheckpointError: it cannot be read, is no regular file, or holds what cannot be weights.
        """
        self.path = path
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                pages = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
        self._pages = pages
        self.data = np.frombuffer(pages, np.uint8)
        other = foreign_content(self.data.data, text=False)
        if other is not None:
            raise CheckpointError(f"{path} {other}")

    def loader(self, name: str, values: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
        """``values`` of the tensor ``name``, for :attr:`StoredTensor.load`: raises nothing but CheckpointError."""

        def load() -> np.ndarray:
            with reading(self.path, lambda: f"tensor {quoted(name)}"):
                self._require_whole()
                return values()

        return load

    def _require_whole(self) -> None:
        size = self._pages.size() if isinstance(self._pages, mmap.mmap) else 0
        if size < self.data.size:
            raise CheckpointError(
                f"{self.path}: was cut from {self.data.size} to {size} bytes while it was read; fetch or copy it again"
            )


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. ``load()`` gives a read-only array; where the file allows, a view of its pages (no copy)."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # tag of paddlemix.checkpoint.dtypes
    file: str
    load: Callable[[], np.ndarray]
    offset: int | None = None  # where its bytes begin in the file, if they lie there as they are


def map_writable(path: Path, offset: int, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """A tensor in a file as an array over its mapped pages. Writing to it changes neither the file nor other maps; it
    is writable because Paddle takes no other arrays without a copy.
    """
    with reading(path):
        return np.memmap(path, dtype=kind, mode="c", offset=offset, shape=shape).view(np.ndarray)


def element_count(shape: Sequence[int]) -> int:
    """Number of elements of a tensor of ``shape``; exact, whatever the shape claims."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def is_shape(value: object) -> TypeGuard[Sequence[int]]:
    """Whether ``value``, out of an untrusted file, is a list or tuple of at most 32 plain non-negative ints."""
    if not isinstance(value, (list, tuple)) or len(value) > 32:
        return False
    return all(type(dim) is int and 0 <= dim < 2**48 for dim in value)
