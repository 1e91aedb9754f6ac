"""Fetching an image from http(s) without being led astray.

The host is resolved once, every address it has is checked, and the connection goes to a checked address: a second
answer of the name server cannot change the target. Redirects go through the same checks. One deadline covers the whole
fetch. Proxy settings of the environment are not used, because a proxy would resolve the name again, unchecked.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from typing import Any, Callable
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import FetchError
from ..utils.display import escape_controls, one_line
from .policy import ImagePolicy

Resolver = Callable[[str, int], list[str]]

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 64 * 1024
_OVERHEAD = 1024 * 1024  # bytes of headers and chunk sizes that an answer may have beside its body
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, policy: ImagePolicy, resolve: Resolver | None = None) -> bytes:
    """The body that ``url`` answers with, at most ``policy.max_bytes`` long. Raises FetchError.

    ``resolve(host, port)`` gives the numeric addresses of a host; by default the system's resolver does.
    Whether the body is an image is for the caller to find out.
    """
    if not policy.allow_urls:
        raise FetchError(f"URL {shorten(url)} refused: this image policy takes no http(s) URLs; pass the image itself")
    deadline = time.monotonic() + policy.timeout
    target = url
    try:
        for _ in range(policy.max_redirects + 1):
            location, body = _get(target, policy, deadline, resolve or _system_resolver(deadline))
            if location is None:
                return body
            target = urljoin(target, location)
    except FetchError:
        raise
    except (TimeoutError, socket.timeout) as error:
        raise FetchError(f"URL {shorten(url)}: no complete answer within {policy.timeout:g} s") from error
    # ValueError: http.client and urllib raise it for chunk sizes below 0, broken URLs and headers
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(f"URL {shorten(url)}: {type(error).__name__}: {one_line(error)}") from error
    raise FetchError(f"URL {shorten(url)}: more than {policy.max_redirects} redirects")


def shorten(url: str) -> str:
    """A URL for messages: without its query, which may hold a signature, and not longer than a line."""
    text = re.sub(r"[\x00-\x20\x7f]", "?", re.split(r"[?#]", url, maxsplit=1)[0])
    text = re.sub(r"(?<=//)[^/]*@", "", text)
    return escape_controls(text if len(text) <= 100 else text[:97] + "...")


def _get(url: str, policy: ImagePolicy, deadline: float, resolve: Resolver) -> tuple[str | None, bytes]:
    """One request: (URL to go on to, b"") for a redirect, (None, body) for an answer."""
    parts, host, port = _parse(url)
    addresses = _checked_addresses(url, host, port, policy, resolve)
    sock = _connect(addresses, port, deadline)
    try:
        if parts.scheme == "https":
            sock.settimeout(_remaining(deadline))
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = _BoundedSocket(sock, deadline, 2 * policy.max_bytes + _OVERHEAD)
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
        query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=-._~?") if parts.query else ""
        default_port = port == (443 if parts.scheme == "https" else 80)
        name = f"[{host}]" if ":" in host else host
        connection.putrequest("GET", path + query, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", name if default_port else f"{name}:{port}")
        connection.putheader("User-Agent", "paddlemix")
        connection.putheader("Accept", "image/*")
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        connection.endheaders()
        with connection.getresponse() as response:
            return _read(url, response, policy)
    finally:
        sock.close()


def _read(url: str, response: http.client.HTTPResponse, policy: ImagePolicy) -> tuple[str | None, bytes]:
    if response.status in _REDIRECTS:
        location = response.getheader("Location")
        if not location:
            raise FetchError(f"URL {shorten(url)}: redirect ({response.status}) that names no target")
        return _utf8_header(location), b""
    if response.status != 200:
        raise FetchError(f"URL {shorten(url)}: the server answered {response.status}, expected 200")
    encoding = response.getheader("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError(f"URL {shorten(url)}: content encoding {encoding[:20]!r} is not supported, expected identity")
    too_large = f"URL {shorten(url)}: larger than the limit of {policy.max_bytes} bytes"
    if response.length is not None and response.length > policy.max_bytes:
        raise FetchError(too_large)
    body = bytearray()
    while True:
        chunk = response.read(min(_CHUNK, policy.max_bytes + 1 - len(body)))
        if not chunk:
            break
        body += chunk
        if len(body) > policy.max_bytes:
            raise FetchError(too_large)
    if response.length:
        raise FetchError(f"URL {shorten(url)}: the answer ended {response.length} bytes early")
    return None, bytes(body)


def _parse(url: str) -> tuple[SplitResult, str, int]:
    if re.search(r"[\x00-\x20\x7f]", url):
        raise FetchError(f"URL {shorten(url)}: holds spaces or control characters; percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise FetchError(f"URL {shorten(url)}: malformed: {one_line(error)}") from error
    if parts.scheme not in ("http", "https"):
        raise FetchError(f"URL {shorten(url)}: scheme {parts.scheme!r}, expected http or https")
    if "@" in parts.netloc:
        raise FetchError(f"URL {shorten(url)}: user names and passwords in URLs are not accepted")
    if not host:
        raise FetchError(f"URL {shorten(url)}: no host")
    return parts, host, port if port is not None else (443 if parts.scheme == "https" else 80)


def _checked_addresses(url: str, host: str, port: int, policy: ImagePolicy, resolve: Resolver) -> list[str]:
    """Every numeric address of the host. All must be public: a mixed answer is how rebinding starts."""
    try:
        addresses = resolve(host, port)
    except (socket.gaierror, UnicodeError) as error:
        raise FetchError(f"URL {shorten(url)}: host {host[:80]!r} has no address: {one_line(error)}") from error
    if not addresses:
        raise FetchError(f"URL {shorten(url)}: host {host[:80]!r} has no address")
    if not policy.allow_private_addresses and not all(is_public(address) for address in addresses):
        raise FetchError(
            f"URL {shorten(url)}: host {host[:80]!r} has a private or reserved address, expected public ones"
        )
    return addresses


def is_public(address: str) -> bool:
    """Whether a numeric address belongs to the public internet, addresses embedded in IPv6 forms included."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo is not None or ip.is_site_local:
            return False
        if embedded is not None:
            return is_public(str(embedded))
    # is_global alone admits multicast, and differs between Python versions for reserved ranges
    return ip.is_global and not (ip.is_private or ip.is_link_local or ip.is_multicast or ip.is_reserved)


def _system_resolver(deadline: float) -> Resolver:
    """``getaddrinfo`` with a deadline: the call itself has none, so it runs aside and may be left behind."""

    def lookup(host: str, port: int, answers: queue.Queue) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(entry[4][0] for entry in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    def resolve(host: str, port: int) -> list[str]:
        answers: queue.Queue = queue.Queue()
        threading.Thread(target=lookup, args=(host, port, answers), daemon=True).start()
        try:
            answer = answers.get(timeout=_remaining(deadline))
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    return resolve


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first address that accepts one; numeric addresses only, so nothing is resolved again."""
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_remaining(deadline))
        except OSError as error:
            failure = error
    raise failure


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class _BoundedSocket:
    """What http.client needs of a socket, with one deadline and one limit of bytes over all reads.

    A slow drip cannot stretch the deadline; a chunk of size -1, which http.client reads to the end, not the limit.
    """

    def __init__(self, sock: socket.socket, deadline: float, max_bytes: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._max_bytes = max_bytes

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_remaining(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._sock, self._deadline, self._max_bytes))

    def close(self) -> None:
        """The owner of the socket closes it."""


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float, max_bytes: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_remaining(self._deadline))
        count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise OSError("the answer is longer than any that would be taken")
        return count


def _utf8_header(value: str) -> str:
    """A header as its server meant it: http.client reads them as Latin-1, but servers write raw UTF-8 into Location."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
