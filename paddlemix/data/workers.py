"""Worker processes: start, end, and a parallel map."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ..errors import NotEnoughMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")

_PER_TASK = 32
_PARENT_CHECK_SECONDS = 2.0


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """``[function(item) for item in items]`` in worker processes.

    Args:
        function: may raise; the error is raised here.
        items: few of them are computed in this process.
        workers: number of processes; 0 computes in this one.

    Raises:
        NotEnoughMemoryError: a worker process was killed.
    """
    if not workers or len(items) <= _PER_TASK:
        return list(map(function, items))
    try:
        with ProcessPoolExecutor(workers, start_method(), initializer=init_worker, initargs=(os.getpid(),)) as pool:
            return list(pool.map(function, items, chunksize=_PER_TASK))
    except BrokenProcessPool as error:
        raise NotEnoughMemoryError(
            f"data: one of {workers} worker processes was killed, probably for want of memory; use fewer"
        ) from error


def start_method() -> multiprocessing.context.BaseContext:
    """Fork where the platform has it: nothing is imported again. Forked workers must never use a device."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)


def init_worker(parent: int, grace: float = 0.0) -> None:
    """Initialize a worker process: it ignores Ctrl-C and ends with its parent.

    Args:
        parent: process id.
        grace: seconds that the worker continues after SIGTERM. A launcher sends that to the whole process group, and
            the parent may want to finish its step; a broken pool sends it to end its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # not as it was inherited: the parent may have a handler
    signal.signal(signal.SIGTERM, (lambda *_: _end_after(grace)) if grace else signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
