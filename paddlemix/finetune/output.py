"""The output directory of a fine-tuning run: what it is of, where to go on, where the result goes."""

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
from ..utils.files import CONFIG_FILE, RUN_FILE, read_json_object, write_json, written_aside
from .checkpoints import newest_checkpoint, publish, sweep, told_as_checkpoint_error
from .configuration import FinetuneConfig

MODEL_FILES = (CONFIG_FILE, ADAPTER_CONFIG_FILE)
BAD_RECORDS_FILE = "bad_records.txt"
_RESULT = "result.writing"
_LOCK = ".lock"

#: options that change neither what is learned nor in which order
_MAY_CHANGE = frozenset(
    {
        *("output_dir", "device", "resume", "visualdl", "logging_steps", "save_steps", "save_total_limit"),
        *("eval_data", "eval_steps", "eval_on_start", "eval_samples", "per_device_eval_batch_size"),
        *("dataloader_num_workers", "image_check", "loss_chunk_size", "recompute"),
    }
)


@dataclass(frozen=True)
class Run:
    """What ``finetune.json`` says of the training in a directory.

    config: its options; processes: how many it runs on; data: digest of the records; metrics: of the finished training,
    None before that.
    """

    config: dict[str, Any]
    processes: int
    data: str
    metrics: dict[str, float] | None = None


def digest_of(record_digests: Iterable[str]) -> str:
    """One text that says which records there are, in which order."""
    return hashlib.sha256("\n".join(record_digests).encode("ascii")).hexdigest()


def find_run(config: FinetuneConfig) -> Run | None:
    """The training that was begun in the output directory with the same options; None in a new directory.

    Raises:
        ConfigurationError: the directory holds a training with other options.
        TargetError: it holds a training that is not to be resumed, or anything that is none.
    """
    folder = check_target(config.output_dir, "output_dir")
    run = _read(folder)
    if run is None:
        for name in MODEL_FILES:
            if (folder / name).exists():
                raise TargetError(f"output_dir: {folder} holds a model ({name}); name another directory")
        if newest_checkpoint(folder) is not None:
            raise TargetError(
                f"output_dir: {folder} holds checkpoints, but no {RUN_FILE} that says of what; name another one"
            )
        require_free(folder, overwrite=None, companions={_LOCK, BAD_RECORDS_FILE})
        return None
    if not config.resume:
        raise TargetError(f"output_dir: {folder} holds a training already; set resume, or name another directory")
    now = config.to_dict()
    before = {**config.defaults(), **run.config}  # what an older version did not know, was as it is by default
    for name in sorted((set(now) | set(before)) - _MAY_CHANGE):
        if now.get(name) != before.get(name):
            raise ConfigurationError(
                f"{name}: got {now.get(name)!r}, the training in {folder} was begun with {before.get(name)!r}; "
                "go on with that, or name another output_dir"
            )
    return run


def occupy(config: FinetuneConfig, before: Run | None) -> contextlib.ExitStack:
    """Keep other processes from training into the output directory until what is returned is closed.

    Args:
        before: what :func:`find_run` found.

    Raises:
        CheckpointError: another process trains there, or the directory cannot be written.
        TargetError: another one did since ``before`` was found.
    """
    folder, held = Path(config.output_dir), contextlib.ExitStack()
    with told_as_checkpoint_error(folder):
        held.enter_context(exclusive(folder / _LOCK, wait=False))
    held.callback((folder / _LOCK).unlink, missing_ok=True)  # before the lock is freed: nobody loses his own
    with contextlib.ExitStack() as refused:
        refused.push(held)
        if find_run(config) != before:
            raise TargetError(f"output_dir: another process has just written to {folder}; start again")
        refused.pop_all()
    return held


def begin_run(folder: Path, run: Run, before: Run | None) -> Path | None:
    """Make the directory ready; returns the checkpoint to go on from, None for a fresh start.

    Args:
        before: what :func:`find_run` found.

    Raises:
        ConfigurationError: the training there is of other records or another number of processes.
        CheckpointError: the directory cannot be written.
    """
    if before is not None:
        if before.processes != run.processes:
            raise ConfigurationError(
                f"output_dir: the training in {folder} runs on {before.processes} process(es), now there are "
                f"{run.processes}; start as many, or name another directory"
            )
        if before.data != run.data:
            raise ConfigurationError(
                f"data: the records are not those that the training in {folder} was begun with; "
                "put them back, or name another output_dir"
            )
    with told_as_checkpoint_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        for path in folder.iterdir():
            if written_aside(path.name) is not None and not path.is_dir():  # of a process that was killed
                path.unlink()
        shutil.rmtree(folder / _RESULT, ignore_errors=True)
        _write(folder, run)
    return newest_checkpoint(folder)


def write_result(folder: Path, run: Run, write: Callable[[Path], object]) -> None:
    """Put the files that ``write`` makes in a folder into ``folder``; they count when ``run`` stands beside them.

    Raises:
        CheckpointError: they cannot be written.
    """
    aside = folder / _RESULT
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        write(aside)
        ready = folder / (_RESULT + ".done")
        shutil.rmtree(ready, ignore_errors=True)
        publish(aside, ready)
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
        {"config": run.config, "processes": run.processes, "data": run.data, "metrics": run.metrics},
    )
