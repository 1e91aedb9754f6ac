"""Random state as JSON, so that a resumed training draws the same numbers as an uninterrupted one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import paddle

from ..errors import TrainingError
from ..utils.paddle_internals import generators


def seed_everything(seed: int, process: int) -> None:
    """Seed the generators of Python, NumPy and Paddle.

    Args:
        seed: of the run.
        process: rank; processes draw different numbers, for dropout.
    """
    mixed = int(np.random.SeedSequence([seed, process]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    paddle.seed(mixed)


def random_state() -> dict[str, Any]:
    """The state of all generators, as JSON values for :func:`set_random_state`."""
    version, words, following = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    inner = numpy_state["state"]
    return {
        "python": [version, list(words), following],
        "numpy": {**numpy_state, "state": {"key": inner["key"].tolist(), "pos": int(inner["pos"])}},
        "paddle": [_generator_state(generator) for generator in generators()],
    }


def set_random_state(state: dict[str, Any], where: object) -> None:
    """Restore the state of all generators.

    Args:
        state: from :func:`random_state`.
        where: the file that it was read from, for messages.

    Raises:
        TrainingError: an invalid state, or one of other devices.
    """
    found = generators()
    try:
        version, words, following = state["python"]
        numpy_state = state["numpy"]
        key = np.array(numpy_state["state"]["key"], np.uint32)
        stored = [(int(seed), int(offset), str(engine)) for seed, offset, engine in state["paddle"]]
        if len(stored) != len(found):
            raise TrainingError(f"{where}: holds {len(stored)} generators of Paddle, this machine has {len(found)}")
        random.setstate((version, tuple(words), following))
        np.random.set_state({**numpy_state, "state": {"key": key, "pos": numpy_state["state"]["pos"]}})
        for generator, (seed, offset, engine) in zip(found, stored):
            now: Any = generator.get_state()
            device = now.__getstate__()[0]
            restored = now.__class__.__new__(now.__class__)  # what unpickling would do
            restored.__setstate__((device, seed, offset, list(engine.encode("ascii"))))
            generator.set_state(restored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"{where}: not a state of random generators ({error!r:.100}); the file is damaged"
        ) from error


def paddle_state() -> list[Any]:
    """The states of Paddle's generators, as Paddle's objects."""
    return [generator.get_state() for generator in generators()]


def set_paddle_state(states: list[Any]) -> None:
    """Restore the states from :func:`paddle_state`."""
    for generator, state in zip(generators(), states):
        generator.set_state(state)


def _generator_state(generator: Any) -> list[Any]:
    _, seed, offset, engine = generator.get_state().__getstate__()
    return [seed, offset, bytes(engine).decode("ascii")]
