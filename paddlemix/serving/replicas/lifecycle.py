"""Replicas from the command line: a Ray of one's own or a cluster's, deploying, deploying anew, stopping."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import FrameType
from typing import Any

from ...errors import ConfigurationError, EngineError
from ...parallel.launch import free_ports
from ..lifecycle import REACHED_AT, address
from ..settings import ServerSettings
from .options import APPLICATION, Plan

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 512 << 20
"""For bodies of requests on their way, most of which are small; it is taken as it is needed."""
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # lines of the access log are alike
    "RAY_COLOR_PREFIX": "0",
}
_KEEP_ALIVE_SECONDS = 30
_DEPLOYED, _DRAINED = "deployed", "drained"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve_replicas(read: Callable[[], Plan], say: Callable[[str], None], open_page: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP deploys anew what ``read`` then gives, replica by replica.

    Args:
        read: gives what is to be deployed.
        say: told the addresses once answers can be had, and what happens later.
        open_page: then open the web page in the browser of whoever started this.

    Raises:
        ConfigurationError: the address cannot be listened on, or what is to be deployed cannot work.
        EngineError: it could not be deployed.
    """
    plan = read()
    port = _port(plan.settings)
    events: SimpleQueue[Any] = SimpleQueue()
    with _connected(plan.cluster), _signals(events):
        _start(plan, port)
        threading.Thread(target=_deploy, args=(plan, events), daemon=True).start()
        for event in iter(events.get, None):
            if event in _STOP_SIGNALS:
                break
            if event == signal.SIGHUP:
                say("deploying anew")
                threading.Thread(target=_deploy_again, args=(read, events), daemon=True).start()
            elif isinstance(event, Exception):
                raise event
            else:
                page = _say_addresses(plan, port, say)
                if open_page and not webbrowser.open(page):
                    say("no browser could be opened")
                open_page = False
        _stop(plan, events)


def _port(settings: ServerSettings) -> int:
    """The port to listen on; found out here, since Ray's proxies would only log that they cannot have it."""
    if settings.port == 0:
        return free_ports(1)[0]
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
    except OSError as error:
        raise ConfigurationError(f"host, port: cannot listen on {settings.host}:{settings.port}") from error
    return settings.port


@contextlib.contextmanager
def _connected(cluster: str | None) -> Iterator[None]:
    """Ray, connected; one of this program's own listens to nobody who does not know its token, and leaves no files."""
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    if cluster is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    with tempfile.TemporaryDirectory(prefix="paddlemix-ray-", ignore_cleanup_errors=True) as folder:
        own: dict[str, Any] = {
            "address": "local",
            "num_cpus": len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }
        ray.init(**(own if cluster is None else {"address": cluster}), logging_level=logging.WARNING)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _signals(events: SimpleQueue[Any]) -> Iterator[None]:
    """Put signals into a queue; after those that Ray takes when it connects."""

    def put(number: int, frame: FrameType | None) -> None:
        events.put(number)

    before = {number: signal.signal(number, put) for number in (*_STOP_SIGNALS, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(plan: Plan, port: int) -> None:
    from ray import serve

    serve.start(
        proxy_location="HeadOnly" if plan.cluster is None else "EveryNode",
        http_options={
            "host": plan.settings.host,
            "port": port,
            "keep_alive_timeout_s": _KEEP_ALIVE_SECONDS,
            "ssl_certfile": plan.certfile,
            "ssl_keyfile": plan.keyfile,
        },
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # in this process it tells each step


def _deploy(plan: Plan, events: SimpleQueue[Any]) -> None:
    """Deploy, and put the outcome into a queue: an error, or that it is done."""
    from ray import serve

    from .deployments import application

    try:
        what = application(plan.models, plan.gateways, may_grow=plan.cluster is not None)
        serve.run(what, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:  # what Ray Serve raises where a deployment fails; its message has the cause
        logger.error("%s", error)
        events.put(EngineError("replicas: they could not be started; the log has why"))
    except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
        events.put(error)
    else:
        events.put(_DEPLOYED)


def _deploy_again(read: Callable[[], Plan], events: SimpleQueue[Any]) -> None:
    """Deploy what is to be read now; what cannot work is logged, and the replicas that run stay."""
    try:
        plan = read()
    except (ConfigurationError, OSError) as error:
        logger.error("not deployed: %s", error)
        return
    outcome: SimpleQueue[Any] = SimpleQueue()
    _deploy(plan, outcome)
    result = outcome.get()
    if isinstance(result, Exception):
        logger.error("not deployed: %s", result)
    else:
        events.put(result)


def _say_addresses(plan: Plan, port: int, say: Callable[[str], None]) -> str:
    """Tell the addresses; that of the page."""
    scheme, host = "http" if plan.certfile is None else "https", plan.settings.host
    for model in plan.models:
        say(f"serving {model.settings.model_name} with {model.replicas} replicas on {address(scheme, host, port)}v1")
    page = address(scheme, REACHED_AT.get(host, host), port)
    say(f"page: {page}")
    return page


def _stop(plan: Plan, events: SimpleQueue[Any]) -> None:
    """Let running answers end, for a while and until a second signal; then end the replicas."""
    from ray import serve

    from .deployments import drain

    seconds = plan.settings.drain_seconds

    def wait() -> None:
        try:
            drain(seconds)
        except Exception:  # nothing may keep the program from ending
            logger.exception("the gateways could not be drained")
        events.put(_DRAINED)

    logger.warning("stopping: waiting up to %g s for running answers", seconds)
    threading.Thread(target=wait, daemon=True).start()
    while (event := events.get()) not in (_DRAINED, *_STOP_SIGNALS):
        pass
    if plan.cluster is not None or event == _DRAINED:
        serve.delete(APPLICATION, _blocking=event == _DRAINED)
