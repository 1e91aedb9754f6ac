"""A function of many items, computed by worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ...errors import NotEnoughMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")

_PER_TASK = 32


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """``[function(item) for item in items]``, by so many processes; 0, or few items: by this one.

    Raises:
        NotEnoughMemoryError: a process was killed; and what the function raises.
    """
    if not workers or len(items) <= _PER_TASK:
        return list(map(function, items))
    try:
        with ProcessPoolExecutor(workers, start_method()) as pool:
            return list(pool.map(function, items, chunksize=_PER_TASK))
    except BrokenProcessPool as error:
        raise NotEnoughMemoryError(
            f"data: one of {workers} worker processes was killed, probably for want of memory; use fewer"
        ) from error


def start_method() -> multiprocessing.context.BaseContext:
    """Forked processes, where there are any: they need not import anything. They must never touch a device."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
