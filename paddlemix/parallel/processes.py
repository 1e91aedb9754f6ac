"""The processes of one training: joining them, work of the main one alone, waiting for each other."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import paddle
import paddle.distributed as dist

from ..errors import ConfigurationError, PaddleMixError
from ..utils.allocator import keep_freed_memory
from ..utils.denormals import flush_denormals
from ..utils.device import resolve_device
from ..utils.paddle_internals import global_store

_ARRIVALS = "paddlemix/arrivals"
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_STORE_SECONDS = 30
_T = TypeVar("_T")


def init_process(device: str | None) -> None:
    """Choose the device of this process and, under a distributed launch, join the process group.

    Args:
        device: ``cpu``, ``gpu`` or None for the GPU if there is one.

    Raises:
        ConfigurationError: a device that Paddle does not see, or several CPU processes without the gloo backend.
    """
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if processes > 1 and device != "cpu" and paddle.device.is_compiled_with_cuda():
        device = f"gpu:{dist.ParallelEnv().device_id}" if paddle.device.cuda.device_count() else "cpu"
    device = resolve_device(device)
    paddle.set_device(device)
    if device == "cpu":
        flush_denormals()
        keep_freed_memory()
        if processes > 1 and os.environ.get("PADDLE_DISTRI_BACKEND") != "gloo":
            raise ConfigurationError(
                "device: several processes on CPUs need --backend gloo behind paddle.distributed.launch"
            )
    if processes > 1 and not dist.is_initialized():
        _wait_for_store()
        dist.init_parallel_env()


def _wait_for_store() -> None:
    """Until the first process listens, which Paddle's own client asks for every few seconds only."""
    host, _, port = os.environ.get("PADDLE_MASTER", "").rpartition(":")
    if not host or os.environ.get("PADDLE_TRAINER_ID") == "0":
        return
    end = time.monotonic() + _STORE_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
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
