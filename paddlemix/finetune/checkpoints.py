"""Training checkpoints: directories of safetensors and JSON that are complete or absent.

``checkpoint-N`` is written as ``checkpoint-N.writing``, synced to disk and renamed. What a killed process leaves is
never taken for a checkpoint, and removed by the next process.
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
from ..utils.paddle_internals import accumulators, create_accumulators, master_weights
from .data_parallel import DataParallel
from .randomness import random_state, set_random_state

STATE_FILE = "training_state.json"
WRITING, REMOVING = ".writing", ".removing"
_VERSION = 1


# ---------------------------------------------------------------------------------------------------- folders


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The complete checkpoint of the latest step; None if there is none."""
    return max(_complete(output_dir), key=_step_of, default=None)


def remove_incomplete_checkpoints(output_dir: Path) -> None:
    """Remove what a killed process left of checkpoints."""
    for path in output_dir.glob("checkpoint-*"):
        if path.name.endswith((WRITING, REMOVING)):
            shutil.rmtree(path, ignore_errors=True)


def remove_old_checkpoints(output_dir: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints."""
    for path in sorted(_complete(output_dir), key=_step_of)[:-keep]:
        _remove(path)


@contextlib.contextmanager
def writing_checkpoint(output_dir: Path, step: int, data_parallel: DataParallel) -> Iterator[Path]:
    """A temporary directory for the files of all processes, which becomes ``checkpoint-N`` at the end.

    Args:
        output_dir: of the run.
        step: N, optimizer steps done.
        data_parallel: every process enters the context.

    Raises:
        CheckpointError: it cannot be written; the earlier checkpoints are still there.
    """
    path = output_dir / f"checkpoint-{step}"
    temporary = path.with_name(path.name + WRITING)
    with told_as_checkpoint_error(path):
        if data_parallel.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        data_parallel.barrier()
        yield temporary
        data_parallel.barrier()
        if data_parallel.rank == 0:
            publish(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Sync a temporary directory to disk, then rename it to ``path``, replacing what is there."""
    for folder, _, files in os.walk(temporary):
        for file in files:
            _sync(Path(folder, file))
        _sync(Path(folder))
    if path.exists():
        _remove(path)
    os.rename(temporary, path)
    _sync(path.parent)


def _complete(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    """Remove a directory such that it is never half there under its name."""
    temporary = path.with_name(path.name + REMOVING)
    shutil.rmtree(temporary, ignore_errors=True)
    os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------------- contents


def save_state(
    folder: Path, progress: Mapping[str, Any], optimizer: paddle.optimizer.AdamW, data_parallel: DataParallel
) -> None:
    """Write what resuming needs besides the weights: progress, optimizer and random state.

    Args:
        folder: of the checkpoint.
        progress: JSON values, for :func:`read_progress`.
        optimizer: of ``data_parallel.owned``. Where every process owns everything, the main process writes.
        data_parallel: every process calls this.
    """
    if data_parallel.rank == 0 or data_parallel.sharding is not None:
        sources = [_source(name, tensor) for name, tensor in optimizer_tensors(optimizer, data_parallel.owned).items()]
        write_safetensors(folder / _optimizer_file(data_parallel), sources, {"format": "pd"})
    write_json(folder / _random_file(data_parallel.rank), random_state())
    if data_parallel.rank == 0:
        shapes = {name: list(parameter.shape) for name, parameter in data_parallel.trainable.items()}
        layout = {
            "version": _VERSION,
            "processes": data_parallel.size,
            "sharding": data_parallel.sharding,
            "trained": shapes,
        }
        write_json(folder / STATE_FILE, {**layout, "progress": dict(progress)})


def read_progress(folder: Path, data_parallel: DataParallel) -> dict[str, Any]:
    """The ``progress`` that :func:`save_state` wrote.

    Raises:
        TrainingError: a checkpoint of a training of other parameters or on another number of processes.
        CheckpointError: it cannot be read.
    """
    state = read_json_object(folder / STATE_FILE, allow_nan=True)  # a loss may be no number
    if state is None or state.get("version") != _VERSION or not isinstance(state.get("progress"), dict):
        raise TrainingError(
            f"{folder}: {STATE_FILE} is missing or not understood; remove the folder or use another one"
        )
    for field, now in (("processes", data_parallel.size), ("sharding", data_parallel.sharding)):
        if state.get(field) != now:
            raise TrainingError(
                f"{folder}: was saved with {field}={state.get(field)}, this training has {now}; "
                "go on as it was begun, or use another output_dir"
            )
    shapes = {name: list(parameter.shape) for name, parameter in data_parallel.trainable.items()}
    trained = state.get("trained")
    stored: dict[str, Any] = trained if isinstance(trained, dict) else {}
    for name in [*shapes, *stored]:
        if stored.get(name) != shapes.get(name):
            raise TrainingError(
                f"{folder}: is of another model or adapter: {name} has shape {stored.get(name)} there, "
                f"{shapes.get(name)} here; use another output_dir"
            )
    progress: dict[str, Any] = state["progress"]
    return progress


def load_state(folder: Path, optimizer: paddle.optimizer.AdamW, data_parallel: DataParallel) -> None:
    """Restore the optimizer and the random generators that :func:`save_state` wrote.

    Args:
        folder: of the checkpoint, whose :func:`read_progress` was called before.
        optimizer: of ``data_parallel.owned``.
        data_parallel: every process calls this.

    Raises:
        TrainingError: files that are missing, damaged or of another training.
        CheckpointError: files that cannot be read.
    """
    path = folder / _optimizer_file(data_parallel)
    stored, _ = read_safetensors(path)
    wanted = optimizer_tensors(optimizer, data_parallel.owned)
    if set(stored) != set(wanted):
        name = min(set(stored) ^ set(wanted))
        raise TrainingError(
            f"{path}: {name} is {'unknown' if name in stored else 'missing'}; the file is of another run"
        )
    for name, tensor in wanted.items():
        if list(stored[name].shape) != list(tensor.shape) or stored[name].dtype != _tag(tensor):
            came = f"{stored[name].dtype} {list(stored[name].shape)}"
            raise TrainingError(f"{path}: {name} is {came}, expected {_tag(tensor)} {list(tensor.shape)}")
        tensor.set_value(np.ascontiguousarray(stored[name].load()))
    path = folder / _random_file(data_parallel.rank)
    state = read_json_object(path)
    if state is None:
        raise TrainingError(f"{path}: missing; the checkpoint is not whole")
    set_random_state(state, path)


def optimizer_tensors(
    optimizer: paddle.optimizer.AdamW, parameters: Mapping[str, paddle.Tensor]
) -> dict[str, paddle.Tensor]:
    """The tensors of an optimizer's state, created if there was no step yet.

    Args:
        optimizer: of the parameters.
        parameters: by name.

    Returns:
        The tensors by ``kind.parameter``, such as ``moment1.lm_head.weight``; ``master.`` are the float32 copies of
        16-bit parameters.
    """
    create_accumulators(optimizer, list(parameters.values()))
    copies = master_weights(optimizer)
    masters: dict[str, paddle.Tensor | None] = {
        name: copies.get(parameter.name) for name, parameter in parameters.items()
    }
    # the state of a 16-bit parameter goes by the name of its float32 copy
    keys = {}
    for name, parameter in parameters.items():
        master = masters[name]
        keys[name] = (parameter if master is None else master).name
    result = {f"{kind}.{name}": of[keys[name]] for kind, of in accumulators(optimizer).items() for name in parameters}
    result.update((f"master.{name}", master) for name, master in masters.items() if master is not None)
    return result


def _optimizer_file(data_parallel: DataParallel) -> str:
    part = f"-{data_parallel.rank:05}-of-{data_parallel.size:05}" if data_parallel.sharding is not None else ""
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
