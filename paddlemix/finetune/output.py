"""The output directory of a fine-tuning run: whose it is, its newest checkpoint, its result."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.stored import CONFIG as ADAPTER_CONFIG_FILE
from ..checkpoint.locks import exclusive
from ..checkpoint.target import check_target, require_free
from ..errors import CheckpointError, ConfigurationError, TargetError
from ..utils.files import CONFIG_FILE, RUN_FILE, read_json_object, told_as_checkpoint_error, write_json, written_aside
from .checkpoints import newest_checkpoint, publish, remove_incomplete_checkpoints
from .configuration import FinetuneConfig

MODEL_FILES = (CONFIG_FILE, ADAPTER_CONFIG_FILE)
BAD_RECORDS_FILE = "bad_records.txt"
_RESULT = "result.writing"
_LOCK = ".lock"

#: options that change neither the trained weights nor the order of the data
_MAY_CHANGE = frozenset(
    {
        *("output_dir", "device", "resume", "visualdl", "logging_steps", "save_steps", "save_total_limit"),
        *("eval_data", "eval_steps", "eval_on_start", "eval_samples", "per_device_eval_batch_size"),
        *("dataloader_num_workers", "image_check", "loss_chunk_size", "recompute"),
        *("sharding", "sharding_parallel_degree"),
        # their product with the number of processes may not; see prepare_output_dir
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    }
)


@dataclass(frozen=True)
class Run:
    """The training in an output directory, as ``finetune.json`` describes it.

    Attributes:
        config: its options, as JSON values.
        processes: their number.
        data_hash: :func:`content_hash` of the training records.
        metrics: of the finished training; None before.
    """

    config: dict[str, Any]
    processes: int
    data_hash: str
    metrics: dict[str, float] | None = None

    @property
    def step_rows(self) -> int:
        """Rows of all processes in an optimizer step."""
        rows: int = self.config["per_device_train_batch_size"] * self.config["gradient_accumulation_steps"]
        replicas: int = self.processes // self.config.get("tensor_parallel_degree", 1)
        return rows * replicas


def content_hash(record_hashes: Iterable[str]) -> str:
    """A hash of which records there are and in which order, from the hash of each."""
    return hashlib.sha256("\n".join(record_hashes).encode("ascii")).hexdigest()


def find_run(config: FinetuneConfig) -> Run | None:
    """The training that was begun in the output directory with the same options; None for a new directory.

    Raises:
        ConfigurationError: the directory holds a training with other options.
        TargetError: it holds a training that is not to be resumed, or files of other programs.
    """
    folder = check_target(config.output_dir, "output_dir")
    run = _read(folder)
    if run is None:
        for name in MODEL_FILES:
            if (folder / name).exists():
                raise TargetError(f"output_dir: {folder} holds a model ({name}); name another directory")
        if newest_checkpoint(folder) is not None:
            raise TargetError(
                f"output_dir: {folder} holds checkpoints, but no {RUN_FILE} that describes them; name another one"
            )
        require_free(folder, overwrite=None, companions={_LOCK, BAD_RECORDS_FILE})
        return None
    if not config.resume:
        raise TargetError(f"output_dir: {folder} holds a training already; set resume, or name another directory")
    now = config.to_dict()
    begun = {**config.defaults(), **run.config}  # options that an older version did not have count as their defaults
    for name in sorted((set(now) | set(begun)) - _MAY_CHANGE):
        if now.get(name) != begun.get(name):
            raise ConfigurationError(
                f"{name}: got {now.get(name)!r}, the training in {folder} was begun with {begun.get(name)!r}; "
                "go on with that, or name another output_dir"
            )
    return run


def lock_output_dir(config: FinetuneConfig, previous: Run | None) -> contextlib.ExitStack:
    """Lock the output directory against other trainings until the returned context is closed.

    Args:
        config: of the run.
        previous: from :func:`find_run`.

    Raises:
        CheckpointError: another process trains there, or the directory cannot be written.
        TargetError: another one did since ``previous`` was found.
    """
    folder, lock = Path(config.output_dir), contextlib.ExitStack()
    with told_as_checkpoint_error(folder):
        lock.enter_context(exclusive(folder / _LOCK, wait=False))
    lock.callback((folder / _LOCK).unlink, missing_ok=True)  # before its release, so that it is not another's file
    with contextlib.ExitStack() as on_error:
        on_error.push(lock)
        if find_run(config) != previous:
            raise TargetError(f"output_dir: another process has just written to {folder}; start again")
        on_error.pop_all()
    return lock


def prepare_output_dir(folder: Path, run: Run, previous: Run | None) -> Path | None:
    """Create the directory or clean it up, and write the description of the run.

    Args:
        folder: the output directory.
        run: the training.
        previous: from :func:`find_run`.

    Returns:
        The checkpoint to resume from; None for a fresh start.

    Raises:
        ConfigurationError: the training there is of other records or has steps of another number of rows.
        CheckpointError: the directory cannot be written.
    """
    if previous is not None:
        if previous.step_rows != run.step_rows:
            raise ConfigurationError(
                f"gradient_accumulation_steps: a step of the training in {folder} has {previous.step_rows} rows on "
                f"{previous.processes} process(es), now {run.step_rows} on {run.processes}; keep the product of "
                "per_device_train_batch_size, gradient_accumulation_steps and processes, or name another directory"
            )
        if previous.data_hash != run.data_hash:
            raise ConfigurationError(
                f"data: the records are not those that the training in {folder} was begun with; "
                "put them back, or name another output_dir"
            )
    with told_as_checkpoint_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_incomplete_checkpoints(folder)
        for path in folder.iterdir():
            if written_aside(path.name) is not None and not path.is_dir():  # of a process that was killed
                path.unlink()
        shutil.rmtree(folder / _RESULT, ignore_errors=True)
        _write(folder, run)
    return newest_checkpoint(folder)


def write_result(folder: Path, run: Run, write: Callable[[Path], object]) -> None:
    """Write the result of a run such that it is complete or absent: it counts once ``run`` is written beside it.

    Args:
        folder: the output directory.
        run: the finished training.
        write: writes the result's files into a directory.

    Raises:
        CheckpointError: they cannot be written.
    """
    temporary = folder / _RESULT
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        ready = folder / (_RESULT + ".done")
        shutil.rmtree(ready, ignore_errors=True)
        publish(temporary, ready)
        for path in sorted(ready.iterdir()):
            os.replace(path, folder / path.name)
        ready.rmdir()
        _write(folder, run)
    except OSError as error:
        raise CheckpointError(f"{folder}: the result cannot be written: {error.strerror or error}") from error


def _read(folder: Path) -> Run | None:
    content = read_json_object(folder / RUN_FILE, allow_nan=True)  # a loss may be no number
    if content is None:
        return None
    fields = {"config": dict, "processes": int, "data": str}
    if not all(isinstance(content.get(name), kind) for name, kind in fields.items()):
        raise ConfigurationError(f"output_dir: {folder / RUN_FILE} is not understood; name another directory")
    metrics = content.get("metrics")
    return Run(content["config"], content["processes"], content["data"], metrics if isinstance(metrics, dict) else None)


def _write(folder: Path, run: Run) -> None:
    write_json(
        folder / RUN_FILE,
        {"config": run.config, "processes": run.processes, "data": run.data_hash, "metrics": run.metrics},
    )
