"""The engine in a thread of its own, where the model is loaded, warmed up and run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import Protocol

from ..errors import ConfigurationError, EngineError, PaddleMixError
from .request import EngineStats, FinishReason, Output, Request

logger = logging.getLogger(__name__)

OutputCallback = Callable[[list[Output]], None]
"""Called in the engine's thread, once per step, with what the step brought for all requests that share the callback;
what it raises is logged. An event loop passes ``loop.call_soon_threadsafe`` in one."""

MAX_FAILURES = 3
"""Failed steps in a row after which the engine counts as dead."""


class StepEngine(Protocol):
    """What the thread needs of an engine; see :class:`.engine.Engine`."""

    def add(self, request: Request) -> None:
        """Queue a request."""

    def abort(self, request_id: str) -> Output | None:
        """End a request; its last output, or None if there is no such request."""

    def step(self) -> list[Output]:
        """Compute one step; what it added to the answers."""

    def has_work(self) -> bool:
        """Whether a request waits or runs."""

    def stats(self) -> EngineStats:
        """Counts and sizes for monitoring."""


class EngineThread:
    """Runs an engine; every method may be called from any thread.

    Args:
        load: makes the engine, in the engine's thread.
        context: entered there first; ``paddle.no_grad``, since gradients are switched for each thread on its own.
        name: of the thread.
    """

    def __init__(
        self,
        load: Callable[[], StepEngine],
        *,
        context: Callable[[], AbstractContextManager] = nullcontext,
        name: str = "engine",
    ) -> None:
        self._load = load
        self._context = context
        self._inbox: SimpleQueue[Callable[[StepEngine], None] | None] = SimpleQueue()
        self._callbacks: dict[str, OutputCallback] = {}
        self._lock = threading.Lock()
        self._loaded = threading.Event()
        self._idle = threading.Event()
        self._closing = False
        self._stopping = False
        self._failure: Exception | None = None
        self._stats = EngineStats()
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start loading; see ``wait_until_ready``."""
        self._thread.start()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Whether the engine is loaded, after at most ``timeout`` seconds.

        Raises:
            Exception: what loading raised.
        """
        loaded = self._loaded.wait(timeout)
        if self._failure is not None:
            raise self._failure
        return loaded

    @property
    def ready(self) -> bool:
        """Loaded, alive, and taking requests."""
        return self._loaded.is_set() and self.alive and not self._closing

    @property
    def alive(self) -> bool:
        """Whether the thread runs and its latest steps did not all fail."""
        return self._thread.is_alive() and self._failure is None and self._stats.failures < MAX_FAILURES

    @property
    def heartbeat(self) -> float:
        """Seconds since the engine last finished a step, or began to wait for work; 0 while it waits."""
        return 0.0 if self._idle.is_set() else time.monotonic() - self._heartbeat

    @property
    def pending(self) -> int:
        """Requests that were submitted and are not finished."""
        return len(self._callbacks)

    def stats(self) -> EngineStats:
        """Numbers as of the end of the latest step."""
        return self._stats

    def submit(self, request: Request, callback: OutputCallback) -> None:
        """Queue a request. Its outputs, the last with a finish reason, go to ``callback``; so does a refusal.

        Raises:
            EngineError: the engine is not running or draining.
            ConfigurationError: the id is that of a request that is not finished.
        """
        with self._lock:
            if self._closing or not self._thread.is_alive():
                raise EngineError("engine: it takes no requests any more; it is being stopped")
            if request.id in self._callbacks:
                raise ConfigurationError(f"request id: {request.id!r} is in use; ids must be unique")
            self._callbacks[request.id] = callback
            self._idle.clear()
            self._inbox.put(lambda engine: self._add(engine, request))

    def abort(self, request_id: str) -> None:
        """End a request before the next step, with ``FinishReason.ABORT``; one that is unknown or finished is none."""
        self._inbox.put(lambda engine: self._abort(engine, request_id))

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for those there are; whether all ended within ``timeout`` seconds."""
        with self._lock:
            self._closing = True
        end = None if timeout is None else time.monotonic() + timeout
        while self._thread.is_alive() and (self._callbacks or not self._idle.is_set()):
            left = 0.05 if end is None else min(0.05, end - time.monotonic())
            if left <= 0:
                return False
            self._idle.wait(left)
        return not self._callbacks

    def stop(self, timeout: float | None = None) -> bool:
        """Abort what runs and end the thread; whether it ended within ``timeout`` seconds."""
        with self._lock:
            self._closing = self._stopping = True
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._context():
            try:
                engine = self._load()
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the engine
                with self._lock:
                    self._failure, self._closing = error, True
                self._loaded.set()
                self._fail_all(EngineError(f"engine: loading failed: {error}"))
                return
            self._stats = engine.stats()
            self._loaded.set()
            try:
                self._loop(engine)
            except Exception as error:  # nobody must wait for a thread that has ended
                logger.exception("the engine's thread failed")
                with self._lock:
                    self._failure, self._closing = error, True
                self._fail_all(EngineError("engine: it failed and has ended; the log has why"))

    def _loop(self, engine: StepEngine) -> None:
        """Step until told to stop; then abort what runs."""
        while not self._stopping:
            self._take(engine)
            if self._stopping:
                break
            if engine.has_work():
                outputs = engine.step()
                _log_failures(outputs)
                self._deliver(outputs)
            self._stats = engine.stats()
            self._heartbeat = time.monotonic()
        for request_id in list(self._callbacks):
            self._abort(engine, request_id)
        self._stats = engine.stats()

    def _take(self, engine: StepEngine) -> None:
        """Carry out what came in; wait for something where there is nothing else to do."""
        while True:
            try:
                wait = not engine.has_work()
                if wait and self._inbox.empty():
                    self._idle.set()
                command = self._inbox.get(block=wait)
            except Empty:
                return
            self._idle.clear()
            self._heartbeat = time.monotonic()
            if command is None:
                return
            command(engine)

    def _add(self, engine: StepEngine, request: Request) -> None:
        try:
            engine.add(request)
        except Exception as error:  # a request that cannot be taken must not end those of others
            if not isinstance(error, PaddleMixError):
                logger.exception("request %s could not be added", request.id)
                error = EngineError("engine: the request could not be taken; the log has why")
            self._deliver([Output(request.id, finish_reason=FinishReason.ERROR, error=error)])

    def _abort(self, engine: StepEngine, request_id: str) -> None:
        output = engine.abort(request_id)
        if output is not None:
            self._deliver([output])

    def _deliver(self, outputs: Iterable[Output]) -> None:
        by_callback: dict[int, tuple[OutputCallback, list[Output]]] = {}
        for output in outputs:
            callback = self._callbacks.get(output.request_id)
            if callback is None:
                continue
            if output.finish_reason is not None:
                del self._callbacks[output.request_id]
            by_callback.setdefault(id(callback), (callback, []))[1].append(output)
        for callback, its in by_callback.values():
            try:
                callback(its)
            except Exception:  # a reader's mistake must not end the engine
                logger.exception("a callback for the engine's outputs failed")

    def _fail_all(self, error: EngineError) -> None:
        self._deliver([Output(name, finish_reason=FinishReason.ERROR, error=error) for name in list(self._callbacks)])


def _log_failures(outputs: Iterable[Output]) -> None:
    """Log what the model raised, once for all requests that it ended."""
    for cause in {output.error.__cause__ for output in outputs if output.error is not None} - {None}:
        logger.error("a step of the engine failed", exc_info=cause)
