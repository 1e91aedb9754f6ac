"""Handing a call to a replica, and its answer to the client, whatever becomes of either."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..errors import APIError
from ..server import openai_failure
from ..sse import ClientGoneError, event, unless_gone
from .calls import Call, ReplicaLostError, ReplicasBusyError

_ATTEMPTS = 3
_GRACE_SECONDS = 30.0
"""Beyond the time that a replica gives a request, for waiting until there is one."""


class Answering(Protocol):
    """See :class:`.gateway.Replicas`."""

    def answer(self, call: Call, session: str) -> AsyncGenerator[Message, None]:
        """What a replica answers."""


class Forwarding:
    """What all forwarded requests share.

    Args:
        request_seconds: that a replica gives a request.
        count_lost: called where a replica ends before its answer.
    """

    def __init__(self, request_seconds: float, count_lost: Callable[[], None]) -> None:
        self.seconds = request_seconds + _GRACE_SECONDS
        self.running: set[asyncio.Task[Any]] = set()
        self.is_cut_off = False
        self.count_lost = count_lost

    def cut_off(self) -> None:
        """End all that runs with an error."""
        self.is_cut_off = True
        for task in self.running:
            task.cancel()


class Forwarded(Response):
    """The answer of a replica to a call.

    A plain answer is passed on once it is whole, so that another replica can give it should the first one end; a stream
    is passed on as it comes, and ends with an error event where its replica does.

    Args:
        forwarding: counts it.
        replicas: that may answer.
        call: the request.
        session: of the conversation.
        release: called once, when it is over in whatever way.
    """

    def __init__(
        self,
        forwarding: Forwarding,
        replicas: Answering,
        call: Call,
        session: str,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._forwarding = forwarding
        self._replicas = replicas
        self._call = call
        self._session = session
        self._release = release
        self._streaming = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, unless the client leaves before."""
        try:
            await unless_gone(Request(scope, receive), self._run(send))
        except ClientGoneError:
            pass
        finally:
            self._release()

    async def _run(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # this is a coroutine
        self._forwarding.running.add(task)
        try:
            await asyncio.wait_for(self._attempts(send), self._forwarding.seconds)
        except APIError as error:
            await self._fail(error, send)
        except asyncio.TimeoutError:
            await self._fail(APIError(504, "no replica has answered in time", code="timeout"), send)
        except asyncio.CancelledError:
            if not self._forwarding.is_cut_off:
                raise
            await self._fail(APIError(503, "the server is being stopped", code="stopping", retry_after=10), send)
        finally:
            self._forwarding.running.discard(task)

    async def _attempts(self, send: Send) -> None:
        for _ in range(_ATTEMPTS):
            try:
                await self._attempt(send)
                return
            except ReplicasBusyError as error:
                message = "the queue is full: the replicas take no more requests now"
                raise APIError(429, message, code="queue_full", retry_after=1) from error
            except ReplicaLostError as error:
                self._forwarding.count_lost()
                if self._streaming:
                    message = "the replica that answered has ended; ask again"
                    raise APIError(503, message, code="replica_lost", retry_after=1) from error
        raise APIError(503, "the replicas that were asked have ended", code="replica_lost", retry_after=5)

    async def _attempt(self, send: Send) -> None:
        messages = self._replicas.answer(self._call, self._session)
        held: list[Message] = []
        try:
            async for message in messages:
                self._streaming = self._streaming or _starts_stream(message)
                if self._streaming:
                    await send(message)
                else:
                    held.append(message)
        finally:
            await messages.aclose()
        for message in held:
            await send(message)

    async def _fail(self, error: APIError, send: Send) -> None:
        """End the answer with an error: as an event of a stream, else as a whole answer."""
        path = self._call.scope["path"]
        told = error.body(path, self._call.request_id)
        if self._streaming:
            body = event(told, "error") if path.startswith("/v1/messages") else openai_failure(error)
            await send({"type": "http.response.body", "body": body})
            return
        body = json.dumps(told).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": error.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def _starts_stream(message: Message) -> bool:
    headers = dict(message.get("headers", ()))
    return headers.get(b"content-type", b"").startswith(b"text/event-stream")


async def whole_answer(messages: AsyncGenerator[Message, None]) -> Any:
    """The value of a JSON answer.

    Raises:
        APIError: there is none.
    """
    try:
        found = [message async for message in messages]
    except (ReplicaLostError, ReplicasBusyError) as error:
        raise APIError(503, "no replica has answered", code="not_ready", retry_after=5) from error
    if not found or found[0].get("status") != 200:
        raise APIError(503, "no replica has answered", code="not_ready", retry_after=5)
    return json.loads(b"".join(message.get("body", b"") for message in found))
