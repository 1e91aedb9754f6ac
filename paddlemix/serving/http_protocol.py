"""HTTP/1.1 as uvicorn reads it through httptools, with bounds on the head of a request, which there it has none for."""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and headers: as much as uvicorn allows through h11."""
HEAD_SECONDS = 30.0
"""From a connection's beginning, or that of a further request on it, to the end of the head."""


class BoundedHTTPProtocol(HttpToolsProtocol):
    """Closes connections whose next request does not begin, or whose head is too long or too slow."""

    _in_head = True
    _begun = False
    _ended = False
    _head_bytes = 0
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._ended = False
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._begun and self._head_timer is None:
            self._start_timer()
        if not self._ended:  # where a request ended in these data, nobody knows how many are of the next one
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Its body is whole; what comes next is another one's head."""
        super().on_message_complete()
        self._in_head, self._head_bytes, self._begun, self._ended = True, 0, False, True

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
