"""JSON lines that are appended one by one: whatever happens, a file has whole lines, and one writer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EvaluationError, OutputError

try:
    import fcntl
except ImportError:  # Windows: no lock there, the user has to take care
    fcntl = None  # type: ignore[assignment]

_PIECE = 1 << 16


class LineWriter:
    """Appends to a file, which is made if absent, with its folder. A torn last line is cut off.

    Args:
        path: of the file.

    Raises:
        EvaluationError: another process writes it.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            self._lock()
            self._size = _end_of_lines(self._descriptor)
            os.ftruncate(self._descriptor, self._size)
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a line; it is with the system when this returns.

        Raises:
            OutputError: the disk is full, or the file cannot be written any more. What is in it stays whole.
        """
        # halves of surrogate pairs, which UTF-8 does not have, as JSON writes them
        data = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)  # half a line would be a torn one
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror or error}; what was answered before is in it: make "
                "room and run the same command again"
            ) from error
        self._size += len(data)

    def close(self) -> None:
        """Close the file; the next writer may have it."""
        os.close(self._descriptor)

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EvaluationError(
                f"{self.path}: another process is writing it; wait for it, or give each process its --shard"
            ) from error
        except OSError:  # a file system without locks: the user has to take care
            return


def _end_of_lines(descriptor: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _PIECE)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
