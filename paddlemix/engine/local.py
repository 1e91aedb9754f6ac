"""The engine for callers in its own process, each of which computes what it waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ..errors import EngineError, PaddleMixError
from .engine import Engine
from .request import Output, Request


class LocalEngine:
    """An engine that is stepped by whoever asks for the next output of a request.

    One thread at a time may call it; only ``abandon`` may be called at any moment, as finalizers are.

    Args:
        engine: not used by anybody else.
        context: entered around each step; ``paddle.no_grad``, since gradients are switched for each thread on its own.
    """

    def __init__(self, engine: Engine, context: Callable[[], AbstractContextManager] = nullcontext) -> None:
        self._engine = engine
        self._context = context
        self._ready: dict[str, deque[Output]] = {}
        self._abandoned: deque[str] = deque()
        self._added = 0

    @property
    def engine(self) -> Engine:
        """The engine itself, for its numbers."""
        return self._engine

    def new_id(self) -> str:
        """An id for the next request."""
        self._added += 1
        return str(self._added)

    def add(self, request: Request) -> None:
        """Take a request; the calls of ``next`` bring its outputs. Errors are those of :meth:`.engine.Engine.add`."""
        self._drop_abandoned()
        self._engine.add(request)
        self._ready[request.id] = deque()

    def next(self, request_id: str) -> Output:
        """The next output of a request, computed if need be; the last one has a finish reason.

        Raises:
            PaddleMixError: what ended the request.
            Exception: what the model raised.
        """
        ready = self._ready[request_id]
        if not ready:
            self._drop_abandoned()
            with self._context():
                while not ready:
                    for output in self._engine.step():
                        if output.request_id in self._ready:
                            self._ready[output.request_id].append(output)
        output = ready.popleft()
        if output.finish_reason is not None:
            del self._ready[request_id]
        if output.error is not None:
            raise raised_error(output.error)
        return output

    def abandon(self, request_id: str) -> None:
        """Nobody asks for this request any more: it ends before anything else is computed."""
        self._abandoned.append(request_id)

    def _drop_abandoned(self) -> None:
        while self._abandoned:
            request_id = self._abandoned.popleft()
            self._ready.pop(request_id, None)
            self._engine.abort(request_id)


def raised_error(error: PaddleMixError) -> BaseException:
    """What to raise in the process where it happened: the model's own failure rather than a word about it."""
    return error.__cause__ if isinstance(error, EngineError) and error.__cause__ is not None else error
