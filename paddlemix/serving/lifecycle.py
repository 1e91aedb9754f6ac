"""Running the application under uvicorn, and stopping it without losing an answer."""

from __future__ import annotations

import asyncio
import logging
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .settings import ServerSettings

logger = logging.getLogger(__name__)


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


def uvicorn_server(app: FastAPI, settings: ServerSettings, **options: object) -> DrainingServer:
    """The server for an application; ``options``: further ones of uvicorn."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # the application has its own
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        lifespan="on",
        **options,  # type: ignore[arg-type]
    )
    return DrainingServer(config, app, settings.drain_seconds)
