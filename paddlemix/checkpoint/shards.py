"""What one of several processes keeps of each weight of a model that is split between them.

A family's table names the dimensions that are split (:attr:`.layouts.WeightTable.splits`): attention heads, hidden
units, tokens. Splitting a model, reading a process's part of a checkpoint and putting parts together again follow from
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .layouts import Rule, WeightTable

Alignment = Callable[[Rule, int], int]
"""Of an axis of a weight: shares begin at multiples of it."""


@dataclass(frozen=True)
class Shard:
    """A part of a weight.

    Attributes:
        whole: shape of the weight in the layout ``paddle``.
        axis: that is split.
        slices: of that axis, which the part has one behind the other.
    """

    whole: tuple[int, ...]
    axis: int
    slices: tuple[slice, ...]

    @property
    def width(self) -> int:
        """Length of the split axis in the part."""
        return sum(part.stop - part.start for part in self.slices)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part."""
        return (*self.whole[: self.axis], self.width, *self.whole[self.axis + 1 :])

    def take(self, array: np.ndarray, transposed: bool = False) -> np.ndarray:
        """The part of the whole weight, or of its transpose; a view where it is in one piece."""
        axis = len(self.whole) - 1 - self.axis if transposed else self.axis
        parts = [array[(slice(None),) * axis + (part,)] for part in self.slices]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)

    def put(self, array: np.ndarray, part: np.ndarray) -> None:
        """Write the part to its places in the whole weight."""
        start = 0
        for place in self.slices:
            length = place.stop - place.start
            before = (slice(None),) * self.axis
            array[before + (place,)] = part[before + (slice(start, start + length),)]
            start += length

    def in_whole(self, own: slice) -> list[slice]:
        """Where places of the part's split axis are in the whole weight."""
        found, start = [], 0
        for place in self.slices:
            length = place.stop - place.start
            first, last = max(own.start, start), min(own.stop, start + length)
            if first < last:
                found.append(slice(place.start + first - start, place.start + last - start))
            start += length
        return found


def share(units: int, rank: int, size: int) -> range:
    """The units of a process; where they do not divide evenly, some processes have one more."""
    return range(units * rank // size, units * (rank + 1) // size)


def unaligned(rule: Rule, axis: int) -> int:
    """The alignment of weights that may be cut anywhere."""
    return 1


class Partition:
    """How the weights of a model are divided among processes.

    What has fewer units than there are processes stays whole in each of them. Where the alignment makes them so few,
    the finest one holds.

    Args:
        table: the weights of the model's family.
        config: a ``config.json`` as a dict, or an object with its fields.
        rank: of this process.
        size: number of processes.
        alignment: of the axes.
        finest: the least that axes can do with.

    Attributes:
        shards: of the weights that are split, by name in the layout ``paddle``.
    """

    def __init__(
        self,
        table: WeightTable,
        config: Any,
        rank: int,
        size: int,
        alignment: Alignment = unaligned,
        finest: Alignment | None = None,
    ) -> None:
        self.table, self.rank, self.size = table, rank, size
        self._config, self._alignments = config, (alignment, finest)
        self._sizes = table.dimensions(config)
        self._chunks = self._units_cut_together(alignment)
        if finest is not None:
            smallest = self._units_cut_together(finest)
            self._chunks.update({unit: smallest[unit] for unit in self._chunks if self._count_chunks(unit) < size})
        self.shards: dict[str, Shard] = {}
        for name, whole in table.expected_shapes(config).items():
            found = table.find_rule(name)
            dimensions = found[0].shape if found is not None else ()
            for axis, dimension in enumerate(dimensions):
                if dimension in table.splits and self.is_split(table.splits[dimension].unit):
                    self.shards[name] = self._shard(whole, axis, dimension)

    def of_all(self, name: str) -> list[Shard]:
        """The parts of a split weight that the processes have, by rank."""
        return [partition.shards[name] for partition in self._partitions]

    @cached_property
    def _partitions(self) -> list[Partition]:
        arguments = self.table, self._config
        return [Partition(*arguments, rank, self.size, *self._alignments) for rank in range(self.size)]

    def own(self, unit: str, rank: int | None = None) -> range:
        """The units, such as heads, of a process, by default of this one."""
        count = self._sizes[unit]
        if not self.is_split(unit):
            return range(count)
        chunk = self._chunks[unit]
        chunks = share(self._count_chunks(unit), self.rank if rank is None else rank, self.size)
        return range(chunks.start * chunk, min(chunks.stop * chunk, count))

    def is_split(self, unit: str) -> bool:
        """Whether every process gets some of the units."""
        return self.size > 1 and self._count_chunks(unit) >= self.size

    def _count_chunks(self, unit: str) -> int:
        return -(-self._sizes[unit] // self._chunks[unit])

    def _shard(self, whole: tuple[int, ...], axis: int, dimension: str) -> Shard:
        split = self.table.splits[dimension]
        length = whole[axis] // split.repeat
        width = length // self._sizes[split.unit]
        own = self.own(split.unit)
        starts = range(0, whole[axis], length)
        return Shard(whole, axis, tuple(slice(start + own.start * width, start + own.stop * width) for start in starts))

    def _units_cut_together(self, alignment: Alignment) -> dict[str, int]:
        """Unit -> how many of them stay together, so that every weight is cut at multiples of its alignment."""
        chunks: dict[str, int] = {}
        for rule in self.table.rules:
            for axis, dimension in enumerate(rule.shape):
                if dimension in self.table.splits:
                    split = self.table.splits[dimension]
                    width = self._sizes[dimension] // split.repeat // self._sizes[split.unit]
                    needed = alignment(rule, axis)
                    chunk = needed // math.gcd(needed, width)
                    chunks[split.unit] = math.lcm(chunks.get(split.unit, 1), chunk)
        return chunks
