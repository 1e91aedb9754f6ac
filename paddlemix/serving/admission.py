"""Places in the queue: taken before a request's body is read, given back however the request ends."""

from __future__ import annotations

import asyncio

from .errors import APIError


class Place:
    """A place in the queue. Giving it back twice is giving it back once."""

    def __init__(self, queue: Admission) -> None:
        self._queue: Admission | None = queue

    def release(self) -> None:
        """Give the place back."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue._leave()


class Admission:
    """Counts requests that wait or run.

    Args:
        max_queue: most of them.
    """

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._taken = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False
        """No more requests are let in; those inside go on."""

    @property
    def taken(self) -> int:
        """Requests inside."""
        return self._taken

    def take(self) -> Place:
        """A place for a request.

        Raises:
            APIError: 429 where the queue is full, 503 while draining.
        """
        if self.draining:
            raise APIError(503, "the server is being stopped", code="stopping", retry_after=10)
        if self._taken >= self._max_queue:
            raise APIError(
                429, f"the queue is full: {self._taken} requests wait or run", code="queue_full", retry_after=1
            )
        self._taken += 1
        self._empty.clear()
        return Place(self)

    async def wait_until_empty(self) -> None:
        """Return when no request is inside."""
        await self._empty.wait()

    def _leave(self) -> None:
        self._taken -= 1
        if self._taken == 0:
            self._empty.set()
