"""Running the application under uvicorn, and stopping it without losing an answer."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
import webbrowser
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from ..engine.thread import EngineThread
from ..errors import ConfigurationError
from .app import create_app
from .http_protocol import BoundedHTTPProtocol
from .server import ServedModel
from .settings import ServerSettings

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""A server on every address is reached on this machine at one of them."""


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT it lets in no more requests and waits for those inside; on the second it ends.

    Until then it goes on listening, so that probes and balancers are told (503) rather than refused.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list | None = None) -> None:
        """Serve until stopped."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self._loop is None or not self.started or self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self.begin_draining)

    def take_signals_again(self) -> None:
        """Handle signals here, whoever has taken them since: importing Paddle installs handlers of its own."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._take_signals)

    def _take_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                signal.signal(number, self.handle_exit)

    def begin_draining(self) -> None:
        """Let in no more requests, and end when those inside are answered."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        admission = self._app.state.server.admission
        admission.draining = True
        logger.warning("stopping: waiting up to %g s for %d requests", self._drain_seconds, admission.taken)
        try:
            await asyncio.wait_for(admission.wait_until_empty(), self._drain_seconds)
        except asyncio.TimeoutError:
            logger.warning("stopping: %d requests are cut off", admission.taken)
            self.force_exit = True
        self.should_exit = True


def serve(
    settings: ServerSettings,
    model: ServedModel,
    engine: EngineThread,
    say: Callable[[str], None],
    *,
    certfile: str | None = None,
    keyfile: str | None = None,
    open_page: bool = False,
) -> None:
    """Serve a model until a signal comes; the engine is started and stopped here.

    Args:
        say: told the addresses of API and page, once answers can be had.
        certfile: with ``keyfile`` for https.
        open_page: open the web page in the browser of whoever started the server.

    Raises:
        ConfigurationError: the address cannot be listened on.
        Exception: what loading the model raised.
    """
    logging.getLogger("paddlemix.serving").setLevel(logging.INFO)  # the access log, and what happens when it stops
    app = create_app(settings, model, engine)
    server = uvicorn_server(app, settings, ssl_certfile=certfile, ssl_keyfile=keyfile)
    engine.start()
    failure: list[Exception] = []
    scheme = "http" if certfile is None else "https"

    def watch() -> None:
        try:
            engine.wait_until_ready()
        except Exception as error:  # noqa: BLE001 (raised again below, where the program can tell it)
            failure.append(error)
            server.should_exit = server.force_exit = True
            return
        while not server.started and not server.should_exit:
            time.sleep(0.01)
        if server.started and not server.should_exit:
            server.take_signals_again()
            host, port = server.servers[0].sockets[0].getsockname()[:2]
            say(f"serving {settings.model_name} on {address(scheme, host, port)}v1")
            page = address(scheme, REACHED_AT.get(host, host), port)
            say(f"page: {page}")
            if open_page and not webbrowser.open(page):
                say("no browser could be opened")

    threading.Thread(target=watch, name="ready", daemon=True).start()
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that it could not listen, which it has logged
        raise ConfigurationError(f"host, port: cannot listen on {settings.host}:{settings.port}") from error
    finally:
        engine.stop(_STOP_SECONDS)
    if failure:
        raise failure[0]


def address(scheme: str, host: str, port: int) -> str:
    """The URL of a server's root."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def uvicorn_server(app: FastAPI, settings: ServerSettings, **options: Any) -> DrainingServer:
    """The server for an application; ``options``: further ones of uvicorn."""
    config = uvicorn.Config(
        app,
        http=BoundedHTTPProtocol,
        host=settings.host,
        port=settings.port,
        access_log=False,  # the application has its own
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        lifespan="on",
        **options,
    )
    return DrainingServer(config, app, settings.drain_seconds)
