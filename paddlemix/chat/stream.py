"""An answer as it is generated, in pieces of text."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

from ..errors import ConfigurationError, PaddleMixError

Result = TypeVar("Result")


class TextStream(Iterator[str], Generic[Result]):
    """Iterate for pieces of text; ``result`` has the whole once the iteration ended.

    One step runs at a time of all streams that share a lock, and none holds it between its steps: a stream that nobody
    reads to its end keeps nobody waiting.

    Args:
        pieces: generates the text and returns the result.
        lock: held during each step; by default one of its own.

    Attributes:
        result: what ``pieces`` returned; ``None`` until the stream has ended, and where it was closed before.
    """

    def __init__(self, pieces: Generator[str, None, Result], lock: threading.RLock | None = None) -> None:
        self._pieces = pieces
        self._lock = threading.RLock() if lock is None else lock
        self._made_by = threading.current_thread()
        self._ready: deque[str] = deque()  # what another thread had generated
        self._error: PaddleMixError | None = None
        self._ended = False
        self.result: Result | None = None

    @property
    def reply(self) -> Result | None:
        """``result``, as it is called where it is a :class:`Reply`."""
        return self.result

    def __iter__(self) -> TextStream[Result]:
        return self

    def __next__(self) -> str:
        with self._lock:
            if not self._ready and not self._ended:
                self._advance()
            if self._ready:
                return self._ready.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
        raise StopIteration

    def wait(self) -> Result:
        """Generate what is left and return the result.

        Raises:
            ConfigurationError: the stream was closed before its end.
            PaddleMixError: what went wrong while generating.
        """
        for _ in self:
            pass
        if self.result is None:
            raise ConfigurationError("stream: was closed before the answer was complete; ask again")
        return self.result

    def close(self) -> None:
        """Break the answer off."""
        with self._lock:
            self._pieces.close()
            self._ready.clear()
            self._ended = True

    def complete(self) -> None:
        """Generate the rest, to be read later; nothing where it is this very thread that turned to something else."""
        with self._lock:
            if self._made_by is threading.current_thread():
                return
            try:
                while not self._ended:
                    self._advance()
            except PaddleMixError as error:  # its reader's affair
                self._error = error
            finally:
                if not self._ended and self._error is None:
                    self._error = ConfigurationError("stream: the answer was interrupted; ask again")
                self._ended = True

    def _advance(self) -> None:
        try:
            self._ready.append(next(self._pieces))
        except StopIteration as end:
            self._ended = True
            if self.result is None:
                self.result = end.value
