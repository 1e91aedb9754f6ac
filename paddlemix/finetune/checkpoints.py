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
from ..checkpoint.readers.tensor import StoredTensor
from ..checkpoint.writer import TensorSource, write_safetensors
from ..errors import TrainingError
from ..utils.files import read_json_object, told_as_checkpoint_error, write_json
from ..utils.paddle_internals import accumulators, create_accumulators, master_weights
from .parallel_state import ParallelState
from .randomness import random_state, set_random_state

STATE_FILE = "training_state.json"
WRITING, REMOVING = ".writing", ".removing"
_VERSION = 1
_OPTIMIZER_FILES = "optimizer*.safetensors"


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
def writing_checkpoint(output_dir: Path, step: int, parallel: ParallelState) -> Iterator[Path]:
    """A temporary directory for the files of all processes, which becomes ``checkpoint-N`` at the end.

    Args:
        output_dir: of the run.
        step: N, optimizer steps done.
        parallel: every process enters the context.

    Raises:
        CheckpointError: it cannot be written; the earlier checkpoints are still there.
    """
    path = output_dir / f"checkpoint-{step}"
    temporary = path.with_name(path.name + WRITING)
    with told_as_checkpoint_error(path):
        if parallel.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        parallel.barrier()
        yield temporary
        parallel.barrier()
        if parallel.rank == 0:
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
    folder: Path, progress: Mapping[str, Any], optimizer: paddle.optimizer.AdamW, parallel: ParallelState
) -> None:
    """Write what resuming needs besides the weights: progress, optimizer and random state.

    Args:
        folder: of the checkpoint.
        progress: JSON values, for :func:`read_progress`.
        optimizer: wrapped or not; each process that shares its state writes what it owns.
        parallel: every process calls this.
    """
    if parallel.writes_state:
        tensors = optimizer_tensors(optimizer, parallel.owned(optimizer))
        sources = [_source(name, tensor) for name, tensor in tensors.items()]
        write_safetensors(folder / _optimizer_file(parallel), sources, {"format": "pd"})
    write_json(folder / _random_file(parallel.rank), random_state())
    if parallel.rank == 0:
        shapes = {name: list(parameter.shape) for name, parameter in parallel.trainable.items()}
        state = {"version": _VERSION, "processes": parallel.size, "trained": shapes, "progress": dict(progress)}
        write_json(folder / STATE_FILE, state)


def read_progress(folder: Path, parallel: ParallelState) -> dict[str, Any]:
    """The ``progress`` that :func:`save_state` wrote.

    Raises:
        TrainingError: a checkpoint of a training of other parameters.
        CheckpointError: it cannot be read.
    """
    state = _read_state(folder)
    shapes = {name: list(parameter.shape) for name, parameter in parallel.trainable.items()}
    trained = state.get("trained")
    stored: dict[str, Any] = trained if isinstance(trained, dict) else {}
    if parallel.group.size > 1:  # the shapes are those of the first process's parts, and the state itself has all
        stored = {name: shapes.get(name, shape) for name, shape in stored.items()}
    for name in [*shapes, *stored]:
        if stored.get(name) != shapes.get(name):
            raise TrainingError(
                f"{folder}: is of another model or adapter: {name} has shape {stored.get(name)} there, "
                f"{shapes.get(name)} here; use another output_dir"
            )
    progress: dict[str, Any] = state["progress"]
    return progress


def load_state(folder: Path, optimizer: paddle.optimizer.AdamW, parallel: ParallelState) -> None:
    """Restore the optimizer and the random generators that :func:`save_state` wrote.

    Another number of processes than at that time draws other random numbers, as for dropout.

    Args:
        folder: of the checkpoint, whose :func:`read_progress` was called before.
        optimizer: wrapped or not.
        parallel: every process calls this.

    Raises:
        TrainingError: files that are missing, damaged or of another training.
        CheckpointError: files that cannot be read.
    """
    stored = _stored_optimizer(folder, parallel)
    wanted = optimizer_tensors(optimizer, parallel.owned(optimizer))
    unknown = [name for name in stored if name.partition(".")[2] not in parallel.trainable]
    for name in unknown or wanted.keys() - stored.keys():
        what = "unknown" if unknown else "missing"
        raise TrainingError(f"{folder / _OPTIMIZER_FILES}: {name} is {what}; the file is of another run")
    for name, tensor in wanted.items():
        if list(stored[name].shape) != list(tensor.shape) or stored[name].dtype != _tag(tensor):
            came = f"{stored[name].dtype} {list(stored[name].shape)}"
            raise TrainingError(
                f"{folder / stored[name].file}: {name} is {came}, expected {_tag(tensor)} {list(tensor.shape)}"
            )
        tensor.set_value(np.ascontiguousarray(stored[name].load()))
    if _read_state(folder).get("processes") != parallel.size:
        return
    path = folder / _random_file(parallel.rank)
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


def _read_state(folder: Path) -> dict[str, Any]:
    state = read_json_object(folder / STATE_FILE, allow_nan=True)  # a loss may be no number
    if state is None or state.get("version") != _VERSION or not isinstance(state.get("progress"), dict):
        raise TrainingError(
            f"{folder}: {STATE_FILE} is missing or not understood; remove the folder or use another one"
        )
    return state


def _stored_optimizer(folder: Path, parallel: ParallelState) -> dict[str, StoredTensor]:
    """The optimizer's tensors of this process's share of the model, whichever processes wrote them."""
    paths = sorted(folder.glob(_OPTIMIZER_FILES))
    of_share = len(paths) // parallel.degrees.tensor
    paths = paths[parallel.group.rank * of_share :][:of_share]
    if not paths:
        raise TrainingError(f"{folder / 'optimizer.safetensors'}: missing; the checkpoint is not whole")
    return {name: tensor for path in paths for name, tensor in read_safetensors(path)[0].items()}


def _optimizer_file(parallel: ParallelState) -> str:
    parts = parallel.degrees.sharding * parallel.degrees.tensor
    part = f"-{parallel.state_part:05}-of-{parts:05}" if parts > 1 else ""
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
