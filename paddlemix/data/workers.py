"""Worker processes: what they have in common, and a function of many items computed by them."""

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
    """``[function(item) for item in items]``, by so many processes; 0, or few items: by this one.

    Raises:
        NotEnoughMemoryError: a process was killed; and what the function raises.
    """
    if not workers or len(items) <= _PER_TASK:
        return list(map(function, items))
    try:
        with ProcessPoolExecutor(workers, start_method(), initializer=begin_worker, initargs=(os.getpid(),)) as pool:
            return list(pool.map(function, items, chunksize=_PER_TASK))
    except BrokenProcessPool as error:
        raise NotEnoughMemoryError(
            f"data: one of {workers} worker processes was killed, probably for want of memory; use fewer"
        ) from error


def start_method() -> multiprocessing.context.BaseContext:
    """Forked processes, where there are any: they need not import anything. They must never touch a device."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)


def begin_worker(parent: int, grace: float = 0.0) -> None:
    """For a worker's start: Ctrl-C is left to the parent, and a parent that is killed takes the worker with it.

    Args:
        grace: seconds that the worker goes on after SIGTERM. A launcher sends that to the whole group, and the parent
            may want the end of its step first; a pool that is broken sends it to be rid of its workers.
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
