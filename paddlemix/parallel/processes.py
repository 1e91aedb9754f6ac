"""Processes that work together: joining them, work of the main one alone, waiting for each other."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import paddle
import paddle.distributed as dist

from ..errors import ConfigurationError, PaddleMixError
from ..utils.allocator import keep_freed_memory
from ..utils.denormals import flush_denormals
from ..utils.device import resolve_device
from ..utils.paddle_internals import global_store
from .launch import launched

_ARRIVALS = "paddlemix/arrivals"
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_JOIN_SECONDS = 300
_VARIABLES = ("PADDLE_TRAINER_ID", "PADDLE_CURRENT_ENDPOINT", "PADDLE_TRAINER_ENDPOINTS")
_T = TypeVar("_T")


def init_process(device: str | None) -> None:
    """Choose the device of this process for a training and, under a distributed launch, join the others.

    Args:
        device: ``cpu``, ``gpu`` or None for the GPU if there is one.

    Raises:
        ConfigurationError: see :func:`join_processes`.
    """
    if join_processes(device) == "cpu":
        flush_denormals()
        keep_freed_memory()


def join_processes(device: str | None) -> str:
    """Choose the device of this process and, under a distributed launch, join the others.

    Args:
        device: ``cpu``, ``gpu`` or None for the GPU if there is one.

    Returns:
        ``cpu`` or ``gpu:N``.

    Raises:
        ConfigurationError: a device that Paddle does not see, several CPU processes without the gloo backend, variables
            of the launcher that are missing, or processes that do not come.
    """
    processes = launched()
    if processes > 1 and device != "cpu" and paddle.device.is_compiled_with_cuda():
        device = f"gpu:{dist.ParallelEnv().device_id}" if paddle.device.cuda.device_count() else "cpu"
    device = resolve_device(device)
    paddle.set_device(device)
    if processes == 1 or is_joined():
        return device
    if device == "cpu" and os.environ.get("PADDLE_DISTRI_BACKEND") != "gloo":
        raise ConfigurationError(
            "device: several processes on CPUs need --backend gloo behind paddle.distributed.launch"
        )
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(
            f"{missing[0]}: the environment has it not, but PADDLE_TRAINERS_NUM={processes}; start all processes by "
            "paddle.distributed.launch"
        )
    _join(os.environ.get("PADDLE_MASTER") or os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0], processes)
    return device


def is_joined() -> bool:
    """Whether this process has joined others."""
    return bool(dist.is_initialized())


def check_alike(fingerprint: bytes) -> None:
    """Compare something of all processes.

    Raises:
        ConfigurationError: in every process, where it is not the same in all of them.
    """
    found: list[paddle.Tensor] = []
    dist.all_gather(found, paddle.to_tensor(list(fingerprint), dtype="int32"))
    for rank, other in enumerate(found):
        if not bool((other == found[0]).all()):
            raise ConfigurationError(
                f"processes: process {rank} has another version of paddlemix, other options or another model than "
                "process 0; start all alike"
            )


def _join(master: str, processes: int) -> None:
    """Meet the others at the store of the first process.

    Raises:
        ConfigurationError: its port is in use, or some do not come.
    """
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    host, _, port = master.rpartition(":")
    if rank == 0:
        _require_free(host, int(port))
    else:
        _wait_for_store(host, int(port))
    try:
        late = f"error: processes: {processes} were to meet at {master}, not all came in {_JOIN_SECONDS} s"
        # the output is a banner of flags that Paddle changed itself
        with _ended_when_late(_JOIN_SECONDS, late), contextlib.redirect_stderr(io.StringIO()):
            dist.init_parallel_env()
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise ConfigurationError(
            f"processes: {processes} were to meet at {master}, and process {rank} was left waiting: {first}"
        ) from error


@contextlib.contextmanager
def _ended_when_late(seconds: float, words: str) -> Iterator[None]:
    """End this process with a line unless the context ends in time.

    A child does it: Paddle waits for the others without letting any other thread of this process run.
    """
    waiting, done = os.pipe()
    process, child = os.getpid(), os.fork()
    if child == 0:
        os.close(done)
        if not select.select([waiting], [], [], seconds)[0]:
            os.write(2, f"{words}\n".encode())
            os.kill(process, signal.SIGKILL)
        os._exit(0)
    os.close(waiting)
    try:
        yield
    finally:
        os.close(done)
        os.waitpid(child, 0)


def _require_free(host: str, port: int) -> None:
    """Raise ConfigurationError for a port of this machine that something listens on."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise ConfigurationError(
                f"processes: port {port} of {host} is in use ({error.strerror}); choose another --master"
            ) from error


def _wait_for_store(host: str, port: int) -> None:
    """Until the first process listens, which Paddle's own client asks for every few seconds only."""
    end = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigurationError(
                    f"processes: process 0 was to listen at {host}:{port}, nobody does ({error}); has it started?"
                ) from error
            time.sleep(_LONGEST_PAUSE)


def run_on_main_process(work: Callable[[], _T]) -> _T:
    """Run ``work`` in the main process (rank 0), for however long, and return its result in every process.

    Raises:
        PaddleMixError: the error that ``work`` raised, in every process.
    """
    if dist.get_world_size() == 1:
        return work()
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [(work(), None)]
        except PaddleMixError as error:
            outcome = [(None, error)]
    wait_for_everyone()
    dist.broadcast_object_list(outcome, src=0)
    result, failure = outcome[0]
    if failure is not None:
        raise failure
    value: _T = result
    return value


def wait_for_everyone() -> None:
    """Return once every process has called this, however long that takes; at once in a single process.

    Call it before a collective operation that one process may reach much later than the others: the operation alone
    times out, over gloo after 30 seconds, over NCCL after 30 minutes.
    """
    processes = dist.get_world_size()
    if processes == 1:
        return
    store = global_store()
    arrived = store.add(_ARRIVALS, 1)
    target = -(-arrived // processes) * processes  # nobody can arrive a second time before this round is over
    pause = _SHORTEST_PAUSE
    while store.add(_ARRIVALS, 0) < target:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
