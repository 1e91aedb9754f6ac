"""The application as Ray Serve runs it: a gateway, and for each model a deployment of its replicas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.types import Message

from ...errors import EngineError
from ..app import create_app
from ..loading import EngineLoader, served_model
from ..routes_status import is_live
from ..settings import ServerSettings
from .calls import REPLICA_HEADER, Call, ReplicaLostError, ReplicasBusyError, answer
from .gateway import create_gateway
from .options import APPLICATION, Cluster, ModelDeployment, check_models, shares
from .placement import numa_nodes, processors

_GATEWAY = "gateway"
_ROUTER = f"{__package__}.router:SessionRouter"
_HEALTH_SECONDS = 5.0
_STATUS_SECONDS = 1.0
_METRICS_SECONDS = 10.0
_CONSTRUCTOR_TRIES = 3
_LOG = {"enable_access_log": False, "log_level": "WARNING"}


class ModelReplica:
    """A server over an engine of its own, called with requests instead of listening for them."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, model: ModelDeployment, cpus: int, has_gpu: bool
    ) -> None:
        context = serve.get_replica_context()
        self._name = context.replica_tag
        _prepare_process(cpus, None if has_gpu else context.rank.local_rank)
        loader = EngineLoader(model.options, model.engine)
        self._stall_seconds = model.settings.stall_seconds
        self._engine = loader.thread()
        self._app = create_app(model.settings, served_model(model.options, loader), self._engine)
        self._engine.start()
        await asyncio.to_thread(self._engine.wait_until_ready)
        self._lifespan = contextlib.AsyncExitStack()
        await self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app))

    async def answer(self, call: Call) -> AsyncGenerator[Message, None]:
        """What the server answers, message by message."""
        messages = answer(self._app, call)
        try:
            async for message in messages:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (REPLICA_HEADER, self._name.encode())]
                yield message
        finally:
            await messages.aclose()

    async def exposition(self) -> tuple[str, bytes]:
        """The name of this replica, and its metrics."""
        server = self._app.state.server
        return self._name, await server.in_pool(server.metrics.exposition)

    async def check_health(self) -> None:
        """Raise EngineError for an engine that has failed or hangs; Ray Serve then replaces this replica."""
        if not is_live(self._engine, self._stall_seconds):
            raise EngineError("engine: its steps fail, or do not end")


class ServeReplicas:
    """The replicas of a model, as the gateway wants them.

    Args:
        handle: of their deployment.
        name: of the deployment.
    """

    def __init__(self, handle: DeploymentHandle, name: str) -> None:
        self._handle = handle
        self._name = name
        self._count = 0
        self._counted = float("-inf")
        self._counting = asyncio.Lock()

    async def answer(self, call: Call, session: str) -> AsyncGenerator[Message, None]:
        """What the replica of a session answers."""
        handle = self._handle.options(method_name="answer", stream=True, session_id=session)
        response = cast("DeploymentResponseGenerator[Message]", handle.remote(call))
        finished = False
        try:
            async for message in response:
                yield message
            finished = True
        except BackPressureError as error:
            finished = True
            raise ReplicasBusyError from error
        except (RayTaskError, TaskCancelledError):
            raise  # the replica's own mistake; another one would make it, too
        except (RayError, RayServeException) as error:
            finished = True
            raise ReplicaLostError from error
        finally:
            if not finished:
                response.cancel()

    async def running(self) -> int:
        """How many take requests, as of a second ago."""
        async with self._counting:
            if time.monotonic() - self._counted > _STATUS_SECONDS:
                self._count = await asyncio.to_thread(_running, self._name)
                self._counted = time.monotonic()
            return self._count

    async def expositions(self) -> Mapping[str, bytes]:
        """The metrics of each that answers in time."""
        found = await self._handle.broadcast("exposition").results_async(
            timeout_s=_METRICS_SECONDS, return_exceptions=True
        )
        return dict(result for result in found if not isinstance(result, BaseException))


def _running(name: str) -> int:
    application = serve.status().applications.get(APPLICATION)
    deployment = None if application is None else application.deployments.get(name)
    states = {} if deployment is None else deployment.replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


@serve.ingress()
class GatewayDeployment:
    """The gateway, to which Ray Serve's proxies lead."""

    def __init__(self, settings: ServerSettings, handles: Mapping[str, DeploymentHandle], places: int) -> None:
        _show_log()
        self._settings = settings
        self._handles = handles
        self._places = places
        self._gateway_app: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, when the replica is made."""
        replicas = {name: ServeReplicas(handle, handle.deployment_name) for name, handle in self._handles.items()}
        self._gateway_app = create_gateway(self._settings, replicas, self._places)
        return self._gateway_app

    async def drain(self, seconds: float) -> None:
        """See :meth:`.gateway.Gateway.drain`."""
        if self._gateway_app is not None:
            await self._gateway_app.state.gateway.drain(seconds)


def application(models: Sequence[ModelDeployment], gateways: int = 1, may_grow: bool = True) -> Application:
    """The application for Ray Serve, in a process that is connected to a cluster.

    Args:
        models: what is served; the server's own settings are those of the first.
        gateways: processes that take requests and forward them.
        may_grow: replicas for which there is no room wait for further machines, instead of being refused.

    Raises:
        ConfigurationError: the models cannot be told apart, or there is no room for them.
    """
    check_models(models)
    needs = shares(models, _cluster(), may_grow)
    settings = models[0].settings
    places = sum(model.replicas * model.settings.limits.max_queue for model in models)
    handles = {model.settings.model_name: _model_deployment(model, *need) for model, need in zip(models, needs)}
    deployment = serve.deployment(
        name=_GATEWAY,
        num_replicas=gateways,
        # it counts places itself, and says so in the shape of the protocol
        max_ongoing_requests=2 * places + 100,
        graceful_shutdown_timeout_s=settings.limits.request_seconds,
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
        logging_config=_LOG,
    )(GatewayDeployment)
    return deployment.bind(settings, handles, places)


def _model_deployment(model: ModelDeployment, cpus: int, gpus: int) -> Application:
    limits = model.settings.limits
    deployment = serve.deployment(
        name=model.name,
        num_replicas=model.replicas,
        max_ongoing_requests=limits.max_queue,
        max_queued_requests=limits.max_queue,
        graceful_shutdown_timeout_s=limits.request_seconds,
        health_check_period_s=_HEALTH_SECONDS,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),  # type: ignore[arg-type]
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        logging_config=_LOG,
    )(ModelReplica)
    return deployment.bind(model, cpus, gpus > 0)


def _cluster() -> Cluster:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    return Cluster(sum(cpus), int(sum(machine.get("GPU", 0) for machine in machines)), max(cpus, default=1))


def _prepare_process(cpus: int, local_rank: int | None) -> None:
    """Before Paddle is imported: threads for so many processors, and on which processors they run.

    Args:
        cpus: of this replica.
        local_rank: which replica of this machine it is; ``None``: the scheduler chooses its processors.
    """
    _show_log()
    for name in ("PADDLEMIX_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(cpus)
    if local_rank is not None:
        # threads that exist already stay where they are; those of the engine are still to come
        os.sched_setaffinity(0, processors(local_rank, cpus, numa_nodes(), sorted(os.sched_getaffinity(0))))


def _show_log() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("paddlemix.serving").setLevel(logging.INFO)


def drain(seconds: float) -> None:
    """Let the gateways take no more requests, and wait until those inside are answered or ``seconds`` are over."""
    handle: Any = serve.get_app_handle(APPLICATION)
    handle.broadcast("drain", seconds).results(return_exceptions=True)
