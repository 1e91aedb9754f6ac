"""A request and its answer as plain values, which cross from one process to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message

REPLICA_HEADER = b"x-replica"
"""Of an answer: the name of the replica that gave it, as it stands in the metrics."""

_LEAVING_SECONDS = 5.0


class ReplicaLostError(Exception):
    """The replica ended before its answer did."""


class ReplicasBusyError(Exception):
    """No replica takes a further request, and as many as may wait do."""


@dataclass(frozen=True)
class Call:
    """A request whose body has been read.

    Attributes:
        scope: of ASGI, without what belongs to a process.
        body: the whole of it.
    """

    scope: dict[str, Any]
    body: bytes = b""

    @classmethod
    def of(cls, request: Request, body: bytes) -> Call:
        """The call that a request is. Its ``X-Request-ID`` becomes the one that this server has given it."""
        scope = {name: request.scope.get(name) for name in _SCOPE_FIELDS}
        headers = [(name, value) for name, value in request.scope["headers"] if name not in _OWN_HEADERS]
        headers.append((b"x-request-id", request.state.request_id.encode()))
        headers.append((b"content-length", str(len(body)).encode()))
        # the path as the client wrote it: whoever mounts an application changes those of the scope
        return cls({**scope, "headers": headers, "root_path": "", "type": "http"}, body)

    @property
    def request_id(self) -> str:
        """The id that this server has given the request."""
        return dict(self.scope.get("headers", ())).get(b"x-request-id", b"").decode()


_SCOPE_FIELDS = ("asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "client", "server")
_OWN_HEADERS = (b"x-request-id", b"content-length", b"transfer-encoding")


async def answer(app: ASGIApp, call: Call) -> AsyncGenerator[Message, None]:
    """What an application answers to a call, message by message; closing the generator is the client's leaving.

    Raises:
        Exception: what the application raised.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    unread = [call.body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await messages.put(message)

    running = asyncio.ensure_future(app(dict(call.scope), receive, send))
    running.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            yield message
        await running
    finally:
        gone.set()
        if not running.done():
            await asyncio.wait([running], timeout=_LEAVING_SECONDS)
            running.cancel()
