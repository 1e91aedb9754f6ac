"""The batches of a training, planned epoch by epoch: packing, grouping by length, mixing of files.

A plan depends on the lengths, the options and the seed alone. So a run that is resumed at any step gets the batches
that it would have had, and one process gets the same optimizer steps as eight, as long as the product of micro-batch
size, accumulation and processes is the same. ``paddle.io.DistributedBatchSampler`` promises neither.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import ConfigurationError

# Window of grouping by length, in steps: enough for similar lengths, few enough to keep epochs different.
_GROUPED_STEPS = 50
#: maximum number of epochs whose steps are counted one by one before a training begins
MAX_COUNTED_EPOCHS = 10_000
# Decimals of counts: in floats 0.29 x 100 is a little less than 29, and 2.2 - 2 a little more than 0.2.
_DECIMALS = 6


@dataclass(frozen=True)
class BatchLayout:
    """The composition of an optimizer step.

    Attributes:
        micro_batch_size: rows of a micro-batch, the forward pass of one process.
        accumulation: micro-batches of each process per step.
        processes: data-parallel processes.
        max_length: maximum tokens in a row.
        packing: pack several records into a row.
        group_by_length: without packing, put records of similar length into a step.
    """

    micro_batch_size: int
    accumulation: int
    processes: int
    max_length: int
    packing: bool = False
    group_by_length: bool = False

    @property
    def step_rows(self) -> int:
        """Rows of all processes in a step."""
        return self.micro_batch_size * self.accumulation * self.processes


@dataclass(frozen=True)
class MicroBatch:
    """The forward pass of one process.

    Attributes:
        rows: record indices, one or (packed) several per row; no rows if the last step has too few for every process.
        target_count: the step's target tokens divided by its micro-batches over all processes. The mean over these of
            (summed loss / target_count) is the mean loss per target token of the step.
    """

    rows: tuple[tuple[int, ...], ...]
    target_count: float


@dataclass(frozen=True)
class EpochPlan:
    """The optimizer steps of an epoch; every record of the epoch is in exactly one row.

    Attributes:
        layout: of the steps.
        records: int64 ``[records]``, record indices row by row, step by step, the longest row of a step first.
        row_ends: int64 ``[rows]``, the end of each row in ``records``.
        step_targets: int64 ``[steps]``, target tokens of each step.
        step_tokens: int64 ``[steps]``, tokens of each step without padding.
    """

    layout: BatchLayout
    records: np.ndarray
    row_ends: np.ndarray
    step_targets: np.ndarray
    step_tokens: np.ndarray

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.step_targets)

    def micro_batch(self, step: int, micro_step: int, process: int) -> MicroBatch:
        """A micro-batch of a process. In a micro-step the rows of all processes have similar lengths.

        A last step that is not full is distributed evenly.

        Args:
            step: optimizer step in the epoch.
            micro_step: number of the micro-batch in the step, below ``layout.accumulation``.
            process: rank.
        """
        count = self.layout.accumulation * self.layout.processes
        first = step * self.layout.step_rows
        n_rows = min(self.layout.step_rows, len(self.row_ends) - first)
        part = micro_step * self.layout.processes + process
        rows = range(first + part * n_rows // count, first + (part + 1) * n_rows // count)
        return MicroBatch(tuple(map(self._row, rows)), max(int(self.step_targets[step]), 1) / count)

    def _row(self, row: int) -> tuple[int, ...]:
        start = int(self.row_ends[row - 1]) if row else 0
        return tuple(self.records[start : self.row_ends[row]].tolist())


class TrainingPlan:
    """The epochs of a training.

    Args:
        lengths: int ``[records]``, tokens of each record.
        targets: int ``[records]``, target tokens of each record.
        layout: of the optimizer steps.
        seed: of the order.
        sources: int ``[records]``, the file of each record; by default all are of one file.
        weights: ``[files]``, how many times an epoch has each record of a file. Of a fractional part an epoch has that
            fraction of the records, the next epoch the following ones.

    Raises:
        ConfigurationError: no records, or one that is longer than a row.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        targets: np.ndarray,
        layout: BatchLayout,
        *,
        seed: int,
        sources: np.ndarray | None = None,
        weights: Sequence[float] = (1.0,),
    ) -> None:
        if len(lengths) == 0:
            raise ConfigurationError("data: no records are left to train on")
        if layout.packing and int(lengths.max()) > layout.max_length:
            raise ConfigurationError(
                f"max_length: got {layout.max_length}, expected at least the {int(lengths.max())} ids of a record"
            )
        self.lengths = np.asarray(lengths, np.int64)
        self.targets = np.asarray(targets, np.int64)
        self.layout = layout
        self.seed = seed
        self.sources = np.zeros(len(lengths), np.int64) if sources is None else np.asarray(sources, np.int64)
        self.weights = tuple(weights)
        # With whole weights every epoch has the same records, hence as many rows.
        self._all_epochs_alike = all(float(weight).is_integer() for weight in self.weights)
        self.epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._counted_steps = lru_cache(maxsize=None)(self._count_steps)

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        records = mixture(self.sources, self.weights, self.seed, epoch)
        if not len(records):
            raise ConfigurationError(f"data: the weights leave no records in epoch {epoch}; raise them")
        return plan_epoch(records, self.lengths, self.targets, self.layout, np.random.default_rng([self.seed, epoch]))

    def _count_steps(self, epoch: int) -> int:
        if self.layout.packing:
            return self.epoch(epoch).steps
        sizes = np.bincount(self.sources, minlength=len(self.weights)).tolist()
        ends = (_epoch_range(epoch, weight, size) for weight, size in zip(self.weights, sizes))
        # an epoch without records cannot be planned, and says so
        return math.ceil(sum(last - first for first, last in ends) / self.layout.step_rows) or self.epoch(epoch).steps

    def steps(self, epoch: int) -> int:
        """Optimizer steps in an epoch; epochs count from 0."""
        return self._counted_steps(0 if self._all_epochs_alike else epoch)

    def total_steps(self, epochs: float) -> int:
        """Optimizer steps in a number of epochs, at least 1; a fraction of an epoch is rounded up to steps.

        Raises:
            ConfigurationError: more epochs than can be counted one by one, if they have to be.
        """
        whole = int(epochs)
        if whole > MAX_COUNTED_EPOCHS and not self._all_epochs_alike:
            raise ConfigurationError(
                f"num_train_epochs: got {epochs:g}, expected at most {MAX_COUNTED_EPOCHS} where weights of files are "
                "not whole numbers; set max_steps instead"
            )
        steps = whole * self.steps(0) if self._all_epochs_alike else sum(map(self.steps, range(whole)))
        return max(steps + math.ceil(round((epochs - whole) * self.steps(whole), _DECIMALS)), 1)

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch of an optimizer step of the training, and the step's number in the epoch."""
        if self._all_epochs_alike:
            return divmod(step, self.steps(0))
        epoch = 0
        while step >= self.steps(epoch):
            step -= self.steps(epoch)
            epoch += 1
        return epoch, step

    def micro_batches(self, process: int, first_step: int, last_step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a process in the optimizer steps ``range(first_step, last_step)``."""
        epoch, step = self.locate(first_step)
        for _ in range(first_step, last_step):
            if step == self.steps(epoch):
                epoch, step = epoch + 1, 0
            plan = self.epoch(epoch)
            for micro_step in range(self.layout.accumulation):
                yield plan.micro_batch(step, micro_step, process)
            step += 1


def mixture(sources: np.ndarray, weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """The records of an epoch, mixed from several files by weight.

    The epochs read each file's records in an endless sequence, reshuffled after every pass: with weight 1 an epoch has
    each record once, with 0.5 every second epoch does.

    Args:
        sources: int ``[records]``, the file of each record.
        weights: ``[files]``.
        seed: of the order.
        epoch: from 0.

    Returns:
        int64 record indices, file by file.
    """
    parts: list[np.ndarray] = []
    for source, weight in enumerate(weights):
        own = np.flatnonzero(sources == source)
        parts += _cycled(own, *_epoch_range(epoch, weight, len(own)), [seed, source])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _epoch_range(epoch: int, weight: float, count: int) -> tuple[int, int]:
    """The part that an epoch has of the endless sequence of a file of ``count`` records."""
    first, last = (math.floor(round(number * weight * count, _DECIMALS)) for number in (epoch, epoch + 1))
    return first, last


def _cycled(items: np.ndarray, first: int, last: int, seed: list[int]) -> Iterator[np.ndarray]:
    """The range from ``first`` to ``last`` of the items' endless sequence, reshuffled after every pass."""
    count = len(items)
    for cycle in range(first // count, -(-last // count)) if count else ():
        order = np.random.default_rng([*seed, cycle]).permutation(count)
        yield items[order[max(first - cycle * count, 0) : last - cycle * count]]


def plan_epoch(
    records: np.ndarray, lengths: np.ndarray, targets: np.ndarray, layout: BatchLayout, rng: np.random.Generator
) -> EpochPlan:
    """Distribute records over rows and steps.

    Args:
        records: int64 record indices, at least one; may repeat.
        lengths: int64, tokens by record index.
        targets: int64, target tokens by record index.
        layout: of the steps.
        rng: of the order.
    """
    records = records[rng.permutation(len(records))]
    if layout.packing:
        packed = pack_rows(lengths[records], layout.max_length)
        rows = [records[packed[index]] for index in rng.permutation(len(packed))]
    else:
        if layout.group_by_length:
            records = _grouped(records, lengths, layout.step_rows, rng)
        rows = list(records[:, None])
    row_lengths = _row_sums(lengths, rows)
    step_starts = range(0, len(rows), layout.step_rows)
    order = np.concatenate(
        [start + np.argsort(-row_lengths[start : start + layout.step_rows], kind="stable") for start in step_starts]
    )
    rows = [rows[index] for index in order]
    return EpochPlan(
        layout,
        np.concatenate(rows),
        np.cumsum([len(row) for row in rows], dtype=np.int64),
        np.add.reduceat(_row_sums(targets, rows), step_starts),
        np.add.reduceat(row_lengths[order], step_starts),
    )


def _row_sums(values: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """The sum over each row's records, int64 ``[rows]``."""
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
    return np.add.reduceat(values[np.concatenate(rows)], starts)


def pack_rows(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Pack sequences into rows by best-fit decreasing: the longest first, each into the fullest row with room for it.

    Args:
        lengths: int ``[sequences]``, at most ``capacity`` each.
        capacity: maximum length of a row.

    Returns:
        Indices into ``lengths`` for each row.
    """
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of rows_by_room, sorted
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        index = bisect_left(rooms, length)
        if index == len(rooms):
            room, row = capacity, len(rows)
            rows.append([])
        else:
            room = rooms[index]
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                del rows_by_room[room], rooms[index]
        rows[row].append(item)
        left = room - length
        if left not in rows_by_room:
            rows_by_room[left] = []
            insort(rooms, left)
        rows_by_room[left].append(row)
    return rows


def _grouped(records: np.ndarray, lengths: np.ndarray, step_rows: int, rng: np.random.Generator) -> np.ndarray:
    """The records reordered so that those of a step have similar lengths; the steps are shuffled."""
    window = step_rows * _GROUPED_STEPS
    chunks = [records[start : start + window] for start in range(0, len(records), window)]
    records = np.concatenate([chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks])
    full = len(records) // step_rows
    steps = records[: full * step_rows].reshape(full, step_rows)[rng.permutation(full)]
    return np.concatenate([steps.reshape(-1), records[full * step_rows :]])
