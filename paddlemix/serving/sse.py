"""Server-sent events, and work that ends when its client has left."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
_CANCEL_SECONDS = 0.05
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client closed the connection; there is nobody to answer."""


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One event as bytes."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """A stream of events.

    It ends, and its generator is closed, when the client leaves or does not read for too long.

    Args:
        events: pieces of the body; empty ones only say that time has passed.
        release: called once, when it is over in whatever way.
        send_seconds: that one piece may wait for the client to read.
        ping_seconds: of silence after which a comment is sent, for the proxies on the way.
        headers: beside the usual ones.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        release: Callable[[], None],
        send_seconds: float,
        ping_seconds: float,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._events = events
        self._release = release
        self._send_seconds = send_seconds
        self._ping_seconds = ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, unless the client leaves before."""
        tasks = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(self._write(send))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)
            await self._events.aclose()
            self._release()
        error = None if tasks[1].cancelled() else tasks[1].exception()
        # a client that left, or did not read, has ended the writing; anything else is a mistake of ours
        if isinstance(error, Exception) and not isinstance(error, (OSError, asyncio.TimeoutError)):
            raise error

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sent = time.monotonic()
        async for piece in self._events:
            if not piece:
                if time.monotonic() - sent < self._ping_seconds:
                    continue
                piece = PING
            sent = time.monotonic()
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            await asyncio.wait_for(send(message), self._send_seconds)
        await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), self._send_seconds)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client leaves.

    The request's body must have been read.

    Raises:
        ClientGoneError: the client left.
    """
    watcher = asyncio.ensure_future(_gone(request.receive))
    worker = asyncio.ensure_future(work)
    try:
        await asyncio.wait((watcher, worker), return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientGoneError
        return worker.result()
    finally:
        await _end([watcher, worker])


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once may not do: before Python 3.12 ``asyncio.wait_for`` drops a cancellation that comes as what it awaits ends.
    """
    left = [task for task in tasks if not task.done()]
    while left:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_CANCEL_SECONDS)
        left = [task for task in left if not task.done()]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
