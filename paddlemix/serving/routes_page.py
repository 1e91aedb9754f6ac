"""The web page at ``/``: files of the folder ``page``, with headers that let it load and run nothing else."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..zoo import DEMO_IMAGE

PAGE = Path(__file__).resolve().parent / "page"
PREFIX = "/page/"
"""Where the page's files are; like ``/`` they need no key, since the page asks for it."""

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), usb=()",
    "X-Frame-Options": "DENY",
    # a newer server has newer files; the browser asks each time whether they have changed
    "Cache-Control": "no-cache",
}


def is_page(path: str) -> bool:
    """Whether a path is the page or one of its files."""
    return path == "/" or path.startswith(PREFIX)


def add_page(app: FastAPI) -> None:
    """Serve the page; it is no part of the API's description."""
    app.add_route("/", _index, include_in_schema=False)
    app.add_route(f"{PREFIX}{DEMO_IMAGE.name}", _demo_image, include_in_schema=False)
    app.mount(PREFIX.rstrip("/"), _WithHeaders(StaticFiles(directory=PAGE)), name="page")


async def _index(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers=HEADERS)


async def _demo_image(request: Request) -> Response:
    return FileResponse(DEMO_IMAGE, headers=HEADERS)


class _WithHeaders:
    """Adds the page's headers to every answer of an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_on)
