"""Requests to the engine's thread, and its outputs back to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from ..engine.request import EngineStats, Output, Request
from ..engine.thread import OutputCallback
from ..errors import EngineError
from .errors import APIError


class EngineHandle(Protocol):
    """What the server needs of :class:`paddlemix.engine.thread.EngineThread`."""

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""

    @property
    def alive(self) -> bool:
        """Whether the thread runs and its steps succeed."""

    @property
    def heartbeat(self) -> float:
        """When the thread last finished a step or found nothing to do, on the monotonic clock."""

    def submit(self, request: Request, callback: OutputCallback) -> None:
        """Queue a request; the callback gets its outputs in the engine's thread."""

    def abort(self, request_id: str) -> None:
        """End a request before its next step."""

    def stats(self) -> EngineStats:
        """Counts and sizes for monitoring."""

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread; whether it ended within ``timeout`` seconds."""


class Generation:
    """The running answers of one HTTP request, by index. Leaving it as a context aborts what still runs."""

    def __init__(self, client: EngineClient, requests: Sequence[Request]) -> None:
        self._client = client
        self._index = {request.id: index for index, request in enumerate(requests)}
        self._running = set(self._index)
        self._ready: deque[tuple[int, Output]] = deque()
        self._wake = asyncio.Event()
        self._requests = requests

    async def __aenter__(self) -> Generation:
        try:
            for request in self._requests:
                self._client._submit(request, self)
        except EngineError as error:
            self._abort()
            raise APIError(503, "the engine takes no requests now", code="not_ready", retry_after=10) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._abort()

    async def batches(self, patience: float | None = None) -> AsyncIterator[list[tuple[int, Output]]]:
        """All outputs that are there, each time some are, until every answer has ended.

        An empty list comes after each ``patience`` seconds of silence.
        """
        while self._running or self._ready:
            if not self._ready:
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), patience)
                except asyncio.TimeoutError:
                    yield []
                    continue
            batch = list(self._ready)
            self._ready.clear()
            yield batch

    def _push(self, output: Output) -> None:
        if output.finish_reason is not None:
            self._running.discard(output.request_id)
            self._client._forget(output.request_id)
        self._ready.append((self._index[output.request_id], output))
        self._wake.set()

    def _abort(self) -> None:
        for request_id in self._running:
            self._client._abort(request_id)
        self._running.clear()
        self._ready.clear()


class EngineClient:
    """The engine as the event loop sees it; one wake-up of the loop per engine step, whatever the number of rows.

    Args:
        engine: the thread.
        loop: on which all methods but the engine's callback run.
    """

    def __init__(self, engine: EngineHandle, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self._loop = loop
        self._generations: dict[str, Generation] = {}
        # one object for all requests: the engine's thread groups a step's outputs by their callback
        self._callback: OutputCallback = self._from_engine
        self.aborted = 0
        """Answers that were ended because nobody waited for them any more."""

    def generate(self, request: Request, answers: int = 1) -> Generation:
        """A context that runs ``answers`` to one request; their ids are the request's with a number."""
        if answers == 1:
            return Generation(self, [request])
        return Generation(
            self,
            [
                replace(request, id=f"{request.id}-{index}", sampling=replace(request.sampling, seed_index=index))
                for index in range(answers)
            ],
        )

    def generate_all(self, requests: Sequence[Request]) -> Generation:
        """A context that runs several requests."""
        return Generation(self, requests)

    @property
    def waiting_generations(self) -> int:
        """Answers that somebody waits for."""
        return len(self._generations)

    def _submit(self, request: Request, generation: Generation) -> None:
        self._generations[request.id] = generation
        try:
            self.engine.submit(request, self._callback)
        except Exception:
            self._forget(request.id)
            raise

    def _abort(self, request_id: str) -> None:
        if self._forget(request_id):
            self.aborted += 1
            self.engine.abort(request_id)

    def _forget(self, request_id: str) -> bool:
        return self._generations.pop(request_id, None) is not None

    def _from_engine(self, outputs: list[Output]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            generation = self._generations.get(output.request_id)
            if generation is not None:
                generation._push(output)
