"""A split model as the engine runs it: the first process has the engine, the others follow its steps.

Caches, images and features stay in each process, under numbers that all of them know them by.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..parallel.channel import END, MISTAKES, CommandChannel
from .protocols import DecodeRun, Features, ModelRunner, PlacedFeatures, RowChoice, RowInput


class Shared:
    """Something that every process has.

    Attributes:
        number: by which all know it.
        value: of this process.
    """

    def __init__(self, number: int, value: Any) -> None:
        self.number, self.value = number, value


class ParallelRunner:
    """Does everything in all processes; see :class:`.protocols.ModelRunner`.

    Args:
        runner: of this process's part of the model.
        channel: to the other processes, which :func:`follow`.
    """

    runs_ahead = False  # the host of the first process chooses all tokens
    _numbers = itertools.count()  # of all runners on one channel

    def __init__(self, runner: ModelRunner, channel: CommandChannel) -> None:
        self._runner, self._channel = runner, channel
        self._dropped: list[int] = []
        self.vocab_size, self.embedded = runner.vocab_size, runner.embedded
        self.window, self.image_tokens = runner.window, runner.image_tokens
        self.feature_bytes, self.identity = runner.feature_bytes, runner.identity

    def position_factor(self, prompt_length: int) -> float:
        """See :class:`.protocols.ModelRunner`."""
        return self._runner.position_factor(prompt_length)

    def block_bytes(self, block_size: int) -> int:
        """See :class:`.protocols.ModelRunner`; of this process's part."""
        return self._runner.block_bytes(block_size)

    def new_cache(self, blocks: int, block_size: int) -> Shared:
        """See :class:`.protocols.ModelRunner`."""
        return self._make(
            "new_cache", lambda: self._runner.new_cache(blocks, block_size), blocks=blocks, block_size=block_size
        )

    def grown_cache(self, cache: Shared, blocks: int) -> Shared:
        """See :class:`.protocols.ModelRunner`."""
        with self._channel.turn():
            self._tell("grown_cache", cache=cache.number, blocks=blocks)
            cache.value = self._runner.grown_cache(cache.value, blocks)
        return cache

    def forward(self, rows: Sequence[RowInput], cache: Shared) -> list[np.ndarray]:
        """See :class:`.protocols.ModelRunner`."""
        ids = np.concatenate([row.ids for row in rows]).astype(np.int64)
        with self._channel.turn():
            self._tell("forward", [ids], cache=cache.number, rows=[_told(row) for row in rows])
            return self._runner.forward([_with(row, lambda shared: shared.value) for row in rows], cache.value)

    def start_run(
        self, rows: Sequence[RowInput], choices: Sequence[RowChoice], cache: Any, steps: int
    ) -> DecodeRun | None:
        """None: tokens are chosen here."""
        return None

    def begin_image(self, pixels: np.ndarray) -> Shared:
        """See :class:`.protocols.ModelRunner`."""
        return self._make("begin_image", lambda: self._runner.begin_image(pixels), [pixels])

    def continue_image(self, state: Shared, layers: int) -> Features | None:
        """See :class:`.protocols.ModelRunner`."""
        number = next(self._numbers)
        with self._channel.turn():
            self._tell("continue_image", state=state.number, layers=layers, number=number)
            features = self._runner.continue_image(state.value, layers)
        return None if features is None else self._shared(number, features)

    def place_features(self, features: np.ndarray) -> Shared:
        """See :class:`.protocols.ModelRunner`."""
        return self._make("place_features", lambda: self._runner.place_features(features), [features])

    def _make(self, do: str, work: Callable[[], Any], arrays: Sequence[np.ndarray] = (), **fields: Any) -> Shared:
        number = next(self._numbers)
        with self._channel.turn():
            self._tell(do, arrays, number=number, **fields)
            return self._shared(number, work())

    def _tell(self, do: str, arrays: Sequence[np.ndarray] = (), **fields: Any) -> None:
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]  # finalizers may add more meanwhile
        self._channel.send({"do": do, "dropped": dropped, **fields}, arrays)

    def _shared(self, number: int, value: Any) -> Shared:
        shared = Shared(number, value)
        weakref.finalize(shared, self._dropped.append, number).atexit = False
        return shared


def follow(runner: ModelRunner, channel: CommandChannel) -> None:
    """Do what the first process does, until it ends.

    Args:
        runner: of this process's part of the model.
        channel: from the first process.
    """
    known: dict[int, Any] = {}
    while True:
        command, arrays = channel.receive()
        if command == END:
            return
        for number in command["dropped"]:
            known.pop(number, None)
        try:
            made = _do(command, arrays, runner, known)
        except MISTAKES:  # the first process has the same one, and tells of it
            continue
        if made is not None and "number" in command:
            known[command["number"]] = made


def _do(command: dict[str, Any], arrays: list[np.ndarray], runner: ModelRunner, known: dict[int, Any]) -> Any:
    """Carry a command out; what it makes."""
    do = command["do"]
    if do == "forward":
        runner.forward(list(_rows(command["rows"], arrays[0], known)), known[command["cache"]])
        return None
    if do == "continue_image":
        return runner.continue_image(known[command["state"]], command["layers"])
    if do == "begin_image":
        return runner.begin_image(arrays[0])
    if do == "place_features":
        return runner.place_features(arrays[0])
    if do == "new_cache":
        return runner.new_cache(command["blocks"], command["block_size"])
    if do == "grown_cache":
        known[command["cache"]] = runner.grown_cache(known[command["cache"]], command["blocks"])
        return None
    raise KeyError(f"{do}: no command")


def _told(row: RowInput) -> dict[str, Any]:
    """A row in JSON, but for its ids."""
    return {
        "count": len(row.ids),
        "start": int(row.start),
        "blocks": [int(block) for block in row.blocks],
        "position_factor": row.position_factor,
        "logits": row.logits,
        "features": [[placed.offset, placed.first, placed.count, placed.features.number] for placed in row.features],
    }


def _rows(told: Sequence[dict[str, Any]], ids: np.ndarray, known: dict[int, Any]) -> Iterator[RowInput]:
    end = 0
    for row in told:
        start, end = end, end + row["count"]
        features = tuple(
            PlacedFeatures(offset, first, count, known[number]) for offset, first, count, number in row["features"]
        )
        yield RowInput(ids[start:end], row["start"], row["blocks"], row["position_factor"], features, row["logits"])


def _with(row: RowInput, value: Callable[[Shared], Any]) -> RowInput:
    """The row with this process's features."""
    if not row.features:
        return row
    own = tuple(dataclasses.replace(placed, features=value(placed.features)) for placed in row.features)
    return dataclasses.replace(row, features=own)
