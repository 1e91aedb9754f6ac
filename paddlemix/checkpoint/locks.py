"""A file lock, so that two processes do not write into one folder at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: no lock there, the user has to take care
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file ``path``; the system frees it when the process ends, however it ends.

    ``wait=False``: raises CheckpointError at once if another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            _lock(file, path, wait)
            if _is_at(file, path):
                yield
                return


def _lock(file: BinaryIO, path: Path, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise CheckpointError(f"{path.parent}: another process is writing here; wait until it is done") from error


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at ``path``: its last holder may have removed it, another made it anew."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
