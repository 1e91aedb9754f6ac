"""The application in front of the replicas: checks, places, forwarding. It knows replicas by a protocol, not Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from ..admission import Admission
from ..errors import APIError
from ..metrics import CONTENT_TYPE
from ..middleware import add_gate
from ..routes_page import add_page
from ..settings import ServerSettings
from .calls import Call
from .expositions import merged
from .forwarding import Forwarded, Forwarding, whole_answer
from .sessions import SESSION_HEADER, Target, read_target

_PREFIX = "paddlemix"
_THREADS = 2
_METHODS = ["GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"]


class Replicas(Protocol):
    """The replicas of one model."""

    def answer(self, call: Call, session: str) -> AsyncGenerator[Message, None]:
        """What the replica of a session, or any for an empty one, answers.

        Raises:
            ReplicaLostError: it has ended.
            ReplicasBusyError: there is no room.
        """

    async def running(self) -> int:
        """How many take requests."""

    async def expositions(self) -> Mapping[str, bytes]:
        """The metrics of each, by its name."""


@dataclass(frozen=True)
class ModelRoute:
    """A model as the gateway knows it.

    Attributes:
        replicas: of the model.
        seen: holds something once a replica was ready; from then on requests wait for one.
    """

    replicas: Replicas
    seen: asyncio.Event


class Gateway:
    """The state of the application; made on its event loop.

    Args:
        settings: of the server, as each replica has them too.
        models: the replicas of each model, by the name in requests; the first answers those that name none.
        places: requests that wait or run at all replicas together.
    """

    def __init__(self, settings: ServerSettings, models: Mapping[str, Replicas], places: int) -> None:
        self.settings = settings
        self.models = {name: ModelRoute(replicas, asyncio.Event()) for name, replicas in models.items()}
        self.admission = Admission(places)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway")
        self._registry = CollectorRegistry()
        self._rejected = Counter(
            f"{_PREFIX}:gateway_rejected", "Requests that no replica has seen.", ["status"], registry=self._registry
        )
        self._gauges = {
            name: Gauge(f"{_PREFIX}:{name}", help_, labels, registry=self._registry)
            for name, help_, labels in (
                ("replicas_running", "Replicas that take requests.", ["model_name"]),
                ("gateway_requests_open", "Requests that were let in and are not over.", []),
            )
        }
        lost = Counter(
            f"{_PREFIX}:replicas_lost", "Requests whose replica ended before its answer.", registry=self._registry
        )
        self.forwarding = Forwarding(settings.limits.request_seconds, lost.inc)

    async def drain(self, seconds: float) -> None:
        """Let in no more requests, wait for those inside, and end those that take longer."""
        self.admission.draining = True
        try:
            await asyncio.wait_for(self.admission.wait_until_empty(), seconds)
        except asyncio.TimeoutError:
            self.forwarding.cut_off()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def rejected(self, error: APIError) -> None:
        """Count a request that is answered with an error here."""
        self._rejected.labels(str(error.status)).inc()

    async def target(self, request: Request, body: bytes) -> Target:
        """Where a request goes."""
        arguments = body, request.headers.get(SESSION_HEADER), request.state.salt
        return await asyncio.get_running_loop().run_in_executor(self._pool, read_target, *arguments)

    def route(self, model: str | None) -> ModelRoute:
        """The model of a name; the first one, which says what is wrong, for none and an unknown one."""
        return self.models.get(model or "") or next(iter(self.models.values()))

    async def check_ready(self, route: ModelRoute) -> None:
        """Raise APIError before the first replica of a model is ready."""
        if not route.seen.is_set():
            if await route.replicas.running() == 0:
                raise APIError(503, "the model is being loaded", code="not_ready", retry_after=5)
            route.seen.set()

    async def running(self) -> dict[str, int]:
        """Replicas of each model that take requests."""
        return {name: await route.replicas.running() for name, route in self.models.items()}

    async def exposition(self) -> bytes:
        """The metrics of this gateway, then those of all replicas."""
        for name, count in (await self.running()).items():
            self._gauges["replicas_running"].labels(name).set(count)
        self._gauges["gateway_requests_open"].set(self.admission.taken)
        found: dict[str, bytes] = {}
        for route in self.models.values():
            found.update(await route.replicas.expositions())
        own = generate_latest(self._registry)
        return own + await asyncio.get_running_loop().run_in_executor(self._pool, merged, found)


def create_gateway(settings: ServerSettings, models: Mapping[str, Replicas], places: int) -> FastAPI:
    """The application; see :class:`Gateway`, which is its ``state.gateway`` while it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.gateway = Gateway(settings, models, places)
        try:
            yield
        finally:
            app.state.gateway.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_route("/health", _health)
    app.add_route("/health/ready", _ready)
    app.add_route("/metrics", _metrics)
    app.add_route("/v1/models", _models)
    app.add_route("/v1/models/{model:path}", _one_model)
    add_page(app)
    app.add_route("/{path:path}", _forward, methods=_METHODS)
    app.add_exception_handler(APIError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    add_gate(app, settings)
    return app


async def _health(request: Request) -> Response:
    """Whether this process lives; replicas that fail are replaced."""
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    """Whether requests should be sent here: 503 while draining, and while a model has no replica that takes them."""
    gateway: Gateway = request.app.state.gateway
    running = await gateway.running()
    status = "draining" if gateway.admission.draining else "ready" if all(running.values()) else "loading"
    headers = {} if status == "ready" else {"Retry-After": "5"}
    return JSONResponse({"status": status, "replicas": running}, 503 if headers else 200, headers=headers)


async def _metrics(request: Request) -> Response:
    return Response(await request.app.state.gateway.exposition(), media_type=CONTENT_TYPE)


async def _models(request: Request) -> Response:
    """The models of all, each as one of its replicas tells it."""
    gateway: Gateway = request.app.state.gateway
    found: list[Any] = []
    for route in gateway.models.values():
        await gateway.check_ready(route)
        found += (await whole_answer(route.replicas.answer(Call.of(request, b""), "")))["data"]
    return JSONResponse({"object": "list", "data": found})


async def _one_model(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    route = gateway.route(request.path_params["model"])
    await gateway.check_ready(route)
    return Forwarded(gateway.forwarding, route.replicas, Call.of(request, b""), "")


async def _forward(request: Request) -> Response:
    """Hand a request to the replica of its conversation."""
    gateway: Gateway = request.app.state.gateway
    if request.method != "POST":
        route = gateway.route(None)
        await gateway.check_ready(route)
        return Forwarded(gateway.forwarding, route.replicas, Call.of(request, b""), "")
    place = gateway.admission.take()
    try:
        body = await request.body()
        target = await gateway.target(request, body)
        route = gateway.route(target.model)
        await gateway.check_ready(route)
        call = Call.of(request, body)
        return Forwarded(gateway.forwarding, route.replicas, call, target.session, place.release)
    except BaseException:
        place.release()
        raise


async def _api_error(request: Request, error: Exception) -> Response:
    told = error if isinstance(error, APIError) else APIError(500, "the gateway failed")
    request.app.state.gateway.rejected(told)
    return JSONResponse(told.body(request.url.path, request.state.request_id), told.status, headers=told.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = APIError(status, "the request cannot be answered", code=f"http_{status}")
    return JSONResponse(told.openai(), status, headers=getattr(error, "headers", None))
