"""A file lock, so that two processes do not write into one folder at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from paddlemix.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: no lock there, the user has to take care
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file ``path``; the system frees it when the process ends, however it ends.

    ``wait=False``: raises CheckpointError at once if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise CheckpointError(
                    f"{path.parent}: another process is writing here; wait until it is done"
                ) from error
        yield
    finally:
        os.close(handle)
