"""Batches from worker processes, prefetched in order.

Not ``paddle.io.DataLoader``: an error in its dataset or collator, such as an image that is gone, hangs the training
without workers, and with them surfaces as another error without the cause.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import paddle

from ..errors import NotEnoughMemoryError
from .workers import init_worker, start_method

Key = TypeVar("Key")
Samples = TypeVar("Samples")
_Key = TypeVar("_Key", contravariant=True)
_Item = TypeVar("_Item", covariant=True)

# Prefetched batches per worker.
_PREFETCH = 2
_GRACE_SECONDS = 5.0


class Dataset(Protocol[_Key, _Item]):
    """The samples of a batch by the batch's key."""

    def __getitem__(self, key: _Key, /) -> _Item:
        """The samples of a batch."""
        ...


class SizedIterable(Protocol[_Item]):
    """An iterable of known length."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def __iter__(self) -> Iterator[_Item]:
        """The items in order."""
        ...


class BatchLoader(Generic[Key, Samples]):
    """The batches of a sampler, in order, as tensors.

    Args:
        dataset: the samples of a batch by its key.
        sampler: the keys of the batches.
        collator: samples to arrays by name.
        workers: number of worker processes that encode records and decode images; 0 does both in this process, when a
            batch is asked for.

    Raises:
        ImageError: iterating, for an image that cannot be read any more; the message names the record.
        NotEnoughMemoryError: iterating, if a worker process was killed.
    """

    def __init__(
        self,
        dataset: Dataset[Key, Samples],
        sampler: SizedIterable[Key],
        collator: Callable[[Samples], dict[str, np.ndarray]],
        workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.collator = collator
        self.workers = workers

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, paddle.Tensor]]:
        """The batches in order."""
        batches = self._prefetched() if self.workers else map(self._make, self.sampler)
        for batch in batches:
            yield {name: paddle.to_tensor(array) for name, array in batch.items()}

    def _make(self, key: Key) -> dict[str, np.ndarray]:
        return self.collator(self.dataset[key])

    def _prefetched(self) -> Iterator[dict[str, np.ndarray]]:
        pending: deque[Future[dict[str, np.ndarray]]] = deque()
        # Forked workers have the records already; they never touch a device.
        pool = ProcessPoolExecutor(
            self.workers, start_method(), initializer=_start_worker, initargs=(self._make, os.getpid())
        )
        try:
            for key in self.sampler:
                pending.append(pool.submit(_work, key))
                if len(pending) >= self.workers * _PREFETCH:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise NotEnoughMemoryError(
                f"dataloader_num_workers: one of {self.workers} worker processes was killed, probably for want of "
                "memory; use fewer"
            ) from error
        finally:
            # Without this the pool's thread reports closed pipes when the process ends.
            pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------- in a worker process

_make: Callable[[Any], dict[str, np.ndarray]]


def _start_worker(make: Callable[[Any], dict[str, np.ndarray]], parent: int) -> None:
    global _make
    _make = make
    init_worker(parent, _GRACE_SECONDS)


def _work(key: Any) -> dict[str, np.ndarray]:
    return _make(key)
