"""One http(s) request within bounds: of time, whatever the server sends and however slowly, and of redirects.

The libraries that could do this wait for each byte and not for the answer: a server that sends one every few seconds
holds them for ever. Here every read of the connection, of headers too, is under one clock.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import string
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from ..errors import PaddleMixError
from ..utils.display import escape_controls, one_line, shorten

#: seconds in which at least ``WINDOW_BYTES`` have to arrive, unless the answer is complete before
WINDOW_SECONDS = 30.0
WINDOW_BYTES = 150_000
MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": "paddlemix", "Accept-Encoding": "identity"}
#: what goes wrong on a connection; ValueError comes from addresses, ports and headers that cannot be read
_ERRORS = (OSError, http.client.HTTPException, ValueError)


class NotThereError(PaddleMixError):
    """A store answered that it does not have what was asked for."""


class UnreachableError(PaddleMixError):
    """A store could not be reached, broke off, or answered with an error."""


class RefusedAnswerError(UnreachableError):
    """A store's answer cannot be used: asking again at once would bring the same."""


class TooSlowError(OSError):
    """The bytes of an answer arrive too slowly."""


class Answer:
    """The beginning of an answer, and its body in pieces. A context manager: it ends the connection."""

    def __init__(self, response: http.client.HTTPResponse, url: str) -> None:
        self._response, self._url = response, url
        self.status, self.headers = response.status, response.headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    @property
    def length(self) -> int | None:
        """Bytes of the body that the headers state; None where they state none, or nonsense."""
        stated = self.headers.get("Content-Length") or ""
        return int(stated) if re.fullmatch(r"[0-9]{1,18}", stated) else None

    def read(self) -> bytes:
        """What of the body arrived, up to 1 MiB; empty at its end.

        Raises:
            UnreachableError: the connection broke.
            RefusedAnswerError: it comes too slowly, or its chunks cannot be.
        """
        try:
            data = self._response.read1(_CHUNK)
        except TooSlowError as error:
            raise RefusedAnswerError(f"{shown(self._url)}: {error}") from error
        except _ERRORS as error:
            raise UnreachableError(f"{shown(self._url)}: broke off ({one_line(error)})") from error
        left = self._response.chunk_left
        if isinstance(left, int) and left < 0:
            raise RefusedAnswerError(f"{shown(self._url)}: sent a chunk of negative size")
        return data


def get(url: str, headers: Mapping[str, str], *, idle: float, total: float | None = None) -> Answer:
    """Ask for ``url`` and follow its redirects; the answer may have any other status.

    Args:
        url: an http(s) address.
        headers: to be sent; ``Authorization`` only to the host of ``url``.
        idle: seconds without a byte after which the connection counts as dead.
        total: seconds for the whole answer. Without it, what counts is the speed: ``WINDOW_BYTES`` in
            ``WINDOW_SECONDS`` of waiting.

    Raises:
        UnreachableError: no answer.
        RefusedAnswerError: an answer that leads nowhere.
    """
    clock, target, sent = _Clock(idle, total), url, {**_HEADERS, **headers}
    for _ in range(MAX_REDIRECTS + 1):
        try:
            response = _request(target, sent, clock)
            if response.status not in _REDIRECTS:
                return Answer(response, url)
            location = response.headers.get("Location") or ""
            response.close()
            following = urljoin(target, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
            before, after = urlsplit(target), urlsplit(following)
        except TooSlowError as error:
            raise RefusedAnswerError(f"{shown(url)}: {error}") from error
        except _ERRORS as error:
            raise UnreachableError(f"{shown(url)}: {one_line(getattr(error, 'reason', None) or error)}") from error
        allowed = ("https",) if before.scheme == "https" else ("http", "https")
        if after.scheme not in allowed:
            raise RefusedAnswerError(f"{shown(url)}: redirects to {shown(following)}, expected {allowed[0]}://…")
        if before[:2] != after[:2]:
            sent.pop("Authorization", None)
            sent.pop("authorization", None)
        target = following
    raise RefusedAnswerError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


def shown(url: str) -> str:
    """A URL for messages: without its query's secrets, on one line and not longer."""
    return shorten(escape_controls(re.sub(r"(?<=//)[^/?#]*@", "", url)), 200)


def _request(url: str, headers: Mapping[str, str], clock: _Clock) -> http.client.HTTPResponse:
    """The answer to one request, of any status. The proxies of the environment are used."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("no http(s) address")
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _Handler(clock), urllib.request.UnknownHandler()):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers=dict(headers))
    return opener.open(request, timeout=clock.idle)


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens connections whose reads are under a clock."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_clocked(http.client.HTTPConnection, self._clock), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        context = ssl.create_default_context()
        return self.do_open(_clocked(http.client.HTTPSConnection, self._clock), request, context=context)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


def _clocked(kind: type[http.client.HTTPConnection], clock: _Clock) -> type[http.client.HTTPConnection]:
    class Connection(kind):  # type: ignore[valid-type, misc]  # the base is an argument
        def connect(self) -> None:
            super().connect()
            self.sock: Any = _ClockedSocket(self.sock, clock)

    return Connection


class _Clock:
    """How long the next byte may take. Time that the caller spends on other things does not count as waiting."""

    def __init__(self, idle: float, total: float | None) -> None:
        self.idle, self._total = idle, total
        self._end = None if total is None else time.monotonic() + total
        self._waited, self._bytes = 0.0, 0

    def patience(self) -> float:
        """Seconds that the next read may take.

        Raises:
            TooSlowError: none are left.
        """
        if self._end is None:
            return self.idle
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._too_late()
        return min(self.idle, left)

    def ran_out(self, seconds: float) -> OSError:
        """The error for a read that brought nothing in the ``seconds`` of its patience."""
        return self._too_late() if seconds < self.idle else TimeoutError(f"nothing came for {seconds:g} s")

    def _too_late(self) -> TooSlowError:
        return TooSlowError(f"no complete answer within {self._total:g} s")

    def arrived(self, count: int, seconds: float) -> None:
        """Note that ``count`` bytes took ``seconds``.

        Raises:
            TooSlowError: so few came in so long a time.
        """
        self._waited += seconds
        self._bytes += count
        if self._end is None and self._waited >= WINDOW_SECONDS:
            if self._bytes < WINDOW_BYTES:
                raise TooSlowError(f"only {self._bytes} bytes came in {self._waited:.0f} s; run again to go on later")
            self._waited, self._bytes = 0.0, 0


class _ClockedSocket:
    """What http.client needs of a socket, with every read under a clock."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock, self._clock, self._read = sock, clock, False

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._clock.patience())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        self._read = True
        return io.BufferedReader(_ClockedReader(self._sock, self._clock))

    def close(self) -> None:
        """Once there is a reader, that closes the socket: an answer's body is read after urllib's own close."""
        if not self._read:
            self._sock.close()


class _ClockedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock, self._clock = sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start, patience = time.monotonic(), self._clock.patience()
        self._sock.settimeout(patience)
        try:
            count = self._sock.recv_into(buffer)
        except socket.timeout as error:
            raise self._clock.ran_out(patience) from error
        self._clock.arrived(count, time.monotonic() - start)
        return count

    def close(self) -> None:
        self._sock.close()
        super().close()
