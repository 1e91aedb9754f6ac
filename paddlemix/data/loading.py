"""Batches made ahead by worker processes.

Not ``paddle.io.DataLoader``: an error in its dataset or collator, such as an image that is gone, hangs the training
without workers, and with them comes out as another error that says nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import paddle

from ..errors import NotEnoughMemoryError
from .workers import begin_worker, start_method

Chosen = TypeVar("Chosen", contravariant=True)
Samples = TypeVar("Samples", covariant=True)

# Batches that are made ahead, for each worker.
_AHEAD = 2
_GRACE_SECONDS = 5.0


class Dataset(Protocol[Chosen, Samples]):
    """What samples are taken from."""

    def __getitem__(self, chosen: Chosen) -> Samples: ...


class BatchLoader(Generic[Chosen, Samples]):
    """The batches of a sampler, in order, as tensors.

    Args:
        dataset: gives the samples of a batch.
        sampler: says for each batch which these are.
        collator: makes arrays of them, by name.
        workers: processes that encode records and decode images; 0: done here, when a batch is asked for.

    Iterating raises ImageError for an image that cannot be read any more, naming the record, and NotEnoughMemoryError
    where a worker was killed.
    """

    def __init__(
        self,
        dataset: Dataset[Chosen, Samples],
        sampler: Collection[Chosen],
        collator: Callable[[Samples], dict[str, np.ndarray]],
        workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.collator = collator
        self.workers = workers

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, paddle.Tensor]]:
        batches = self._made_ahead() if self.workers else map(self._make, self.sampler)
        for batch in batches:
            yield {name: paddle.to_tensor(array) for name, array in batch.items()}

    def _make(self, batch: Chosen) -> dict[str, np.ndarray]:
        return self.collator(self.dataset[batch])

    def _made_ahead(self) -> Iterator[dict[str, np.ndarray]]:
        pending: deque[Future[dict[str, np.ndarray]]] = deque()
        # Forked workers have the records already; they never touch a device.
        pool = ProcessPoolExecutor(
            self.workers, start_method(), initializer=_start_worker, initargs=(self._make, os.getpid())
        )
        try:
            for batch in self.sampler:
                pending.append(pool.submit(_work, batch))
                if len(pending) >= self.workers * _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise NotEnoughMemoryError(
                f"dataloader_num_workers: one of {self.workers} worker processes was killed, probably for want of "
                "memory; use fewer"
            ) from error
        finally:
            # Left to itself, the pool's own thread tells of closed pipes when the process ends.
            pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------- in a worker process

_make: Callable[[Any], dict[str, np.ndarray]]


def _start_worker(make: Callable[[Any], dict[str, np.ndarray]], parent: int) -> None:
    global _make
    _make = make
    begin_worker(parent, _GRACE_SECONDS)


def _work(batch: Any) -> dict[str, np.ndarray]:
    return _make(batch)
