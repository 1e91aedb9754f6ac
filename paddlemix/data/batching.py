"""Which records stand in which batch: an epoch is planned before it begins.

A plan depends on the lengths, the options and the seed alone. So a run that is resumed at any step goes on with the
batches it would have had, and one process gets the same optimizer steps as eight, as long as rows, accumulation and
processes have the same product.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import ConfigurationError

# Records are grouped by length within so many steps: enough for similar lengths, few enough to keep epochs different.
_GROUPED_STEPS = 50
#: epochs that are counted one by one before a training begins
MAX_COUNTED_EPOCHS = 10_000
# Decimals of counts: in floats 0.29 x 100 is a little less than 29, and 2.2 - 2 a little more than 0.2.
_DECIMALS = 6


@dataclass(frozen=True)
class BatchLayout:
    """How an optimizer step is made up.

    Attributes:
        rows: of one forward pass on one device.
        accumulation: forward passes of one device in a step.
        processes: devices that share a step.
        packing: fill each row with records, up to ``max_length`` ids.
        group_by_length: without packing, put records of similar length into a step.
    """

    rows: int
    accumulation: int
    processes: int
    max_length: int
    packing: bool = False
    group_by_length: bool = False

    @property
    def step_rows(self) -> int:
        return self.rows * self.accumulation * self.processes


@dataclass(frozen=True)
class MicroBatch:
    """What one process computes in one forward pass.

    Attributes:
        rows: record indices, one or (packed) several a row; no rows where a last step has too few for everyone.
        target_count: the step's number of target tokens, divided by its micro-batches over all processes. The mean over
            these of (sum of the losses / target_count) is the mean over the tokens of the step.
    """

    rows: tuple[tuple[int, ...], ...]
    target_count: float


@dataclass(frozen=True)
class EpochPlan:
    """The optimizer steps of an epoch: every record of it stands in exactly one row.

    Attributes:
        records: int64 ``[records]``, row by row, step by step, the longest row of a step first.
        row_ends: int64 ``[rows]``, where each row ends in ``records``.
        step_targets, step_tokens: int64 ``[steps]``, learned tokens of each step, and all of them without padding.
    """

    layout: BatchLayout
    records: np.ndarray
    row_ends: np.ndarray
    step_targets: np.ndarray
    step_tokens: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.step_targets)

    def micro_batch(self, step: int, turn: int, process: int) -> MicroBatch:
        """The rows of ``process`` in forward pass ``turn`` of a step. All processes' rows in a turn are about as long.

        A last step that is not full is dealt out evenly.
        """
        count = self.layout.accumulation * self.layout.processes
        first = step * self.layout.step_rows
        n_rows = min(self.layout.step_rows, len(self.row_ends) - first)
        part = turn * self.layout.processes + process
        rows = range(first + part * n_rows // count, first + (part + 1) * n_rows // count)
        return MicroBatch(tuple(map(self._row, rows)), max(int(self.step_targets[step]), 1) / count)

    def _row(self, row: int) -> tuple[int, ...]:
        start = int(self.row_ends[row - 1]) if row else 0
        return tuple(self.records[start : self.row_ends[row]].tolist())


class TrainingPlan:
    """The epochs of a training, one after the other.

    Args:
        lengths, targets: int ``[records]``, ids and learned ids of each record.
        sources: int ``[records]``, which file each record is from.
        weights: ``[files]``, how often an epoch has each record of a file: a whole number of times, and of the rest a
            part that goes on with other records in the next epoch.
        seed: of the order.

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
        ends = (_places(epoch, weight, size) for weight, size in zip(self.weights, sizes))
        # an epoch without records cannot be planned, and says so
        return math.ceil(sum(last - first for first, last in ends) / self.layout.step_rows) or self.epoch(epoch).steps

    def steps(self, epoch: int) -> int:
        """Optimizer steps in an epoch, counted from 0."""
        return self._counted_steps(0 if self._all_epochs_alike else epoch)

    def total_steps(self, epochs: float) -> int:
        """Optimizer steps in so many epochs, at least 1; a part of an epoch is rounded up to steps.

        Raises:
            ConfigurationError: more epochs than can be counted beforehand, where each has to be.
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
        """The epoch that an optimizer step of the training is in, and its number in there."""
        if self._all_epochs_alike:
            return divmod(step, self.steps(0))
        epoch = 0
        while step >= self.steps(epoch):
            step -= self.steps(epoch)
            epoch += 1
        return epoch, step

    def micro_batches(self, process: int, first_step: int, last_step: int) -> Iterator[MicroBatch]:
        """What ``process`` computes in the optimizer steps from ``first_step`` until before ``last_step``."""
        epoch, step = self.locate(first_step)
        for _ in range(first_step, last_step):
            if step == self.steps(epoch):
                epoch, step = epoch + 1, 0
            plan = self.epoch(epoch)
            for turn in range(self.layout.accumulation):
                yield plan.micro_batch(step, turn, process)
            step += 1


def mixture(sources: np.ndarray, weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """The records of an epoch, int64, file by file: so many of each file as its weight says.

    The epochs go through each file's records in one long row, a new order for every time through: with weight 1 an
    epoch has each of them once, with 0.5 every second epoch does.
    """
    parts = []
    for source, weight in enumerate(weights):
        own = np.flatnonzero(sources == source)
        parts += _cycled(own, *_places(epoch, weight, len(own)), [seed, source])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _places(epoch: int, weight: float, count: int) -> tuple[int, int]:
    """Which part of the long row of a file of ``count`` records an epoch has."""
    first, last = (math.floor(round(number * weight * count, _DECIMALS)) for number in (epoch, epoch + 1))
    return first, last


def _cycled(items: np.ndarray, first: int, last: int, seed: list[int]) -> Iterator[np.ndarray]:
    """Places ``first`` to ``last`` of the items in ever new orders."""
    count = len(items)
    for cycle in range(first // count, -(-last // count)) if count else ():
        order = np.random.default_rng([*seed, cycle]).permutation(count)
        yield items[order[max(first - cycle * count, 0) : last - cycle * count]]


def plan_epoch(
    records: np.ndarray, lengths: np.ndarray, targets: np.ndarray, layout: BatchLayout, rng: np.random.Generator
) -> EpochPlan:
    """Deal the given records out to rows and steps.

    Args:
        records: int64, at least one; a record that is wanted twice stands there twice.
        lengths, targets: int64, by record.
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
    """Indices into ``lengths``, row by row, such that no row is longer than ``capacity``.

    Best fit decreasing: the longest first, each into the fullest row that has room for it.
    """
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of rows_by_room, sorted
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, row = capacity, len(rows)
            rows.append([])
        else:
            room = rooms[place]
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                del rows_by_room[room], rooms[place]
        rows[row].append(item)
        left = room - length
        if left not in rows_by_room:
            rows_by_room[left] = []
            insort(rooms, left)
        rows_by_room[left].append(row)
    return rows


def _grouped(records: np.ndarray, lengths: np.ndarray, step_rows: int, rng: np.random.Generator) -> np.ndarray:
    """The records in another order, in which those of a step have similar lengths; the steps are shuffled."""
    window = step_rows * _GROUPED_STEPS
    chunks = [records[start : start + window] for start in range(0, len(records), window)]
    records = np.concatenate([chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks])
    full = len(records) // step_rows
    steps = records[: full * step_rows].reshape(full, step_rows)[rng.permutation(full)]
    return np.concatenate([steps.reshape(-1), records[full * step_rows :]])
