"""Checkpoints of a training: folders that are whole or not there, of safetensors and JSON.

``checkpoint-N`` is written as ``checkpoint-N.writing``, brought to the disk and renamed. What a killed process leaves
is never taken for a checkpoint, and swept away by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..checkpoint import dtypes
from ..checkpoint.readers.safetensors_file import read_safetensors
from ..checkpoint.writer import TensorSource, write_safetensors
from ..errors import TrainingError
from ..utils.files import read_json_object, told_as_checkpoint_error, write_json
from .data_parallel import Exchange
from .randomness import random_state, set_random_state

STATE_FILE = "training_state.json"
WRITING, REMOVING = ".writing", ".removing"
_VERSION = 1


# ---------------------------------------------------------------------------------------------------- folders


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The complete checkpoint of the latest step; None where there is none."""
    return max(_complete(output_dir), key=_step_of, default=None)


def sweep(output_dir: Path) -> None:
    """Remove what an interrupted process left of checkpoints."""
    for path in output_dir.glob("checkpoint-*"):
        if path.name.endswith((WRITING, REMOVING)):
            shutil.rmtree(path, ignore_errors=True)


def drop_old(output_dir: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints."""
    for path in sorted(_complete(output_dir), key=_step_of)[:-keep]:
        _remove(path)


@contextlib.contextmanager
def writing_checkpoint(output_dir: Path, step: int, exchange: Exchange) -> Iterator[Path]:
    """A folder for the files of all processes that the first one makes ``checkpoint-N`` at the end.

    Raises:
        CheckpointError: it cannot be written; the earlier checkpoints are still there.
    """
    path = output_dir / f"checkpoint-{step}"
    aside = path.with_name(path.name + WRITING)
    with told_as_checkpoint_error(path):
        if exchange.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        exchange.barrier()
        yield aside
        exchange.barrier()
        if exchange.rank == 0:
            publish(aside, path)


def publish(aside: Path, path: Path) -> None:
    """Bring a folder to the disk, then give it its name."""
    for folder, _, files in os.walk(aside):
        for file in files:
            _sync(Path(folder, file))
        _sync(Path(folder))
    if path.exists():
        _remove(path)
    os.rename(aside, path)
    _sync(path.parent)


def _complete(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    """Remove a folder so that at no time half of it bears its name."""
    aside = path.with_name(path.name + REMOVING)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------------- contents


def save_state(
    folder: Path, progress: Mapping[str, Any], optimizer: paddle.optimizer.AdamW, exchange: Exchange
) -> None:
    """Write what a training needs to go on besides its weights; called by every process.

    Args:
        progress: values that JSON has.
        optimizer: that of ``exchange.owned``. Where every process owns everything, the first one writes.
    """
    if exchange.rank == 0 or exchange.sharding is not None:
        sources = [_source(name, tensor) for name, tensor in optimizer_tensors(optimizer, exchange.owned).items()]
        write_safetensors(folder / _optimizer_file(exchange), sources, {"format": "pd"})
    write_json(folder / _random_file(exchange.rank), random_state())
    if exchange.rank == 0:
        shapes = {name: list(parameter.shape) for name, parameter in exchange.trained.items()}
        layout = {"version": _VERSION, "processes": exchange.size, "sharding": exchange.sharding, "trained": shapes}
        write_json(folder / STATE_FILE, {**layout, "progress": dict(progress)})


def read_progress(folder: Path, exchange: Exchange) -> dict[str, Any]:
    """The ``progress`` of a checkpoint.

    Raises:
        TrainingError: it is of a training of other parameters or on another number of processes.
        CheckpointError: it cannot be read.
    """
    state = read_json_object(folder / STATE_FILE, allow_nan=True)  # a loss may be no number
    if state is None or state.get("version") != _VERSION or not isinstance(state.get("progress"), dict):
        raise TrainingError(
            f"{folder}: {STATE_FILE} is missing or not understood; remove the folder or use another one"
        )
    for field, now in (("processes", exchange.size), ("sharding", exchange.sharding)):
        if state.get(field) != now:
            raise TrainingError(
                f"{folder}: was saved with {field}={state.get(field)}, this training has {now}; "
                "go on as it was begun, or use another output_dir"
            )
    shapes = {name: list(parameter.shape) for name, parameter in exchange.trained.items()}
    stored = state.get("trained") if isinstance(state.get("trained"), dict) else {}
    for name in [*shapes, *stored]:
        if stored.get(name) != shapes.get(name):
            raise TrainingError(
                f"{folder}: is of another model or adapter: {name} has shape {stored.get(name)} there, "
                f"{shapes.get(name)} here; use another output_dir"
            )
    return state["progress"]


def load_state(folder: Path, optimizer: paddle.optimizer.AdamW, exchange: Exchange) -> None:
    """Fill the optimizer and the random generators; called by every process after :func:`read_progress`.

    Raises:
        TrainingError, CheckpointError: files that are missing, damaged or of another training.
    """
    path = folder / _optimizer_file(exchange)
    stored, _ = read_safetensors(path)
    wanted = optimizer_tensors(optimizer, exchange.owned)
    if set(stored) != set(wanted):
        name = sorted(set(stored) ^ set(wanted))[0]
        raise TrainingError(
            f"{path}: {name} is {'unknown' if name in stored else 'missing'}; the file is of another run"
        )
    for name, tensor in wanted.items():
        if list(stored[name].shape) != list(tensor.shape) or stored[name].dtype != _tag(tensor):
            came = f"{stored[name].dtype} {list(stored[name].shape)}"
            raise TrainingError(f"{path}: {name} is {came}, expected {_tag(tensor)} {list(tensor.shape)}")
        tensor.set_value(np.ascontiguousarray(stored[name].load()))
    path = folder / _random_file(exchange.rank)
    state = read_json_object(path)
    if state is None:
        raise TrainingError(f"{path}: missing; the checkpoint is not whole")
    set_random_state(state, path)


def optimizer_tensors(
    optimizer: paddle.optimizer.AdamW, parameters: Mapping[str, paddle.Tensor]
) -> dict[str, paddle.Tensor]:
    """The tensors of the optimizer's state by ``kind.parameter``, made where it has not begun yet."""
    block = paddle.static.default_main_program().global_block()  # what the optimizer itself passes, and does not use
    optimizer._create_accumulators(block, list(parameters.values()))
    masters = {name: optimizer._master_weights.get(parameter.name) for name, parameter in parameters.items()}
    # the state of a 16-bit parameter goes by the name of its float32 copy
    keys = {
        name: (parameter if masters[name] is None else masters[name]).name for name, parameter in parameters.items()
    }
    result = {f"{kind}.{name}": of[keys[name]] for kind, of in optimizer._accumulators.items() for name in parameters}
    result.update((f"master.{name}", master) for name, master in masters.items() if master is not None)
    return result


def _optimizer_file(exchange: Exchange) -> str:
    part = f"-{exchange.rank:05}-of-{exchange.size:05}" if exchange.sharding is not None else ""
    return f"optimizer{part}.safetensors"


def _random_file(rank: int) -> str:
    return f"random_state-{rank:05}.json"


def _tag(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _source(name: str, tensor: paddle.Tensor) -> TensorSource:
    tag = _tag(tensor)
    return TensorSource(
        name, tuple(tensor.shape), tag, lambda: [np.ascontiguousarray(tensor.numpy()).view(dtypes.STORAGE[tag])]
    )
