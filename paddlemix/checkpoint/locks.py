"""A file lock, so that two processes do not write into one folder at once."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
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

    Raises:
        CheckpointError: another process holds it, and ``wait`` is off; or something else lies in its place.
        OSError: it cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as file:
            _lock(file, path, wait)
            if _is_at(file, path):
                yield
                return


def _open(path: Path) -> BinaryIO:
    """The lock file, made if need be: never what a link points to, and no pipe, which would be waited for."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise CheckpointError(f"{path}: is a symbolic link, expected a lock file; remove it") from error
    file = os.fdopen(descriptor, "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise CheckpointError(f"{path}: is no regular file, expected a lock file; remove it")
    return file


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
