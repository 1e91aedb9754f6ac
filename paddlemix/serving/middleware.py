"""What happens to every request before its route: an id, Host, key, size of the body; and a line in the access log."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import APIError
from .routes_page import is_page
from .settings import ServerSettings, is_loopback

access_log = logging.getLogger("paddlemix.serving.access")

OPEN_PATHS = ("/health", "/health/ready")
"""What needs no key beside the page: probes have none."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def add_gate(app: FastAPI, settings: ServerSettings) -> None:
    """Put :class:`Gate` around an application, and around that what browsers ask of it for pages of elsewhere.

    They ask before a request whether it may be sent, and without its key; and a page must be able to read a refusal.
    """
    app.add_middleware(Gate, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID"],
        )


class Gate:
    """The layer of the server that a request comes to first.

    Puts ``request_id`` and ``salt`` (of the key, for the prefix cache) into the scope's state.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"], state["salt"], state["received"] = request_id, b"", time.monotonic()
        log = _AccessLog(scope, request_id)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                log.status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = request_id
                for name, value in _SAFE_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            try:
                self._check(scope["path"], headers, state)
            except APIError as error:
                await _answer(error, scope["path"], request_id, send_on)
                return
            await self._app(scope, _bounded(receive, self._settings.limits.max_body_bytes), send_on)
        finally:
            log.write()

    def _check(self, path: str, headers: Headers, state: dict) -> None:
        if self._settings.is_loopback:
            _check_host(headers.get("host", ""), self._settings.allowed_hosts)
        if self._keys and path not in OPEN_PATHS and not is_page(path):
            state["salt"] = _salt(_check_key(headers, self._keys))
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.limits.max_body_bytes:
            raise _too_large(self._settings.limits.max_body_bytes)


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)


def _check_host(host: str, allowed: Sequence[str]) -> None:
    """A server on this machine answers to its names only: a web page may have a name of its own lead here."""
    name = re.sub(r":\d+\Z", "", host)
    if "*" not in allowed and not is_loopback(name) and name.lower() not in allowed:
        raise APIError(403, "Host: not a name of this server; --allowed_host adds one", code="host_not_allowed")


def _check_key(headers: Headers, keys: Sequence[bytes]) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    # all are compared, whichever fits: the time tells nothing
    fitting = [key for key in keys if hmac.compare_digest(key, given.encode("utf-8", "replace"))]
    if not fitting:
        message = "wrong API key" if given else "no API key; send it as Authorization: Bearer KEY, or as x-api-key"
        raise APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    return fitting[0]


def _salt(key: bytes) -> bytes:
    return hashlib.sha256(b"paddlemix prefix cache " + key).digest()[:16]


def _too_large(limit: int) -> APIError:
    return APIError(413, f"the body is larger than the {limit} bytes that this server takes", code="body_too_large")


def _bounded(receive: Receive, limit: int) -> Receive:
    left = limit

    async def receive_bounded() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left < 0:
                raise _too_large(limit)
        return message

    return receive_bounded


async def _answer(error: APIError, path: str, request_id: str, send: Send) -> None:
    body = json.dumps(error.body(path, request_id)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    # the body was not read: the connection must not be used for another request
    raw.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class _AccessLog:
    """One line for each request: never a prompt, a query or a key."""

    def __init__(self, scope: Scope, request_id: str) -> None:
        self._scope = scope
        self._request_id = request_id
        self._start = time.monotonic()
        self.status = 499  # nothing was sent: the client left

    def write(self) -> None:
        path = self._scope["path"]
        is_quiet = path in OPEN_PATHS or path == "/metrics" or is_page(path)
        level = logging.DEBUG if is_quiet else logging.INFO
        tokens = self._scope["state"].get("tokens", "")
        access_log.log(
            level,
            "%s %s %.100r %s %.0f ms%s",
            self._request_id,
            self._scope["method"],
            path,
            self.status,
            1000 * (time.monotonic() - self._start),
            f" {tokens}" if tokens else "",
        )
