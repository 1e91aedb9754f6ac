"""One model in several processes: who they are, that they are alike, who leads and who follows.

The first process loads its part as :func:`paddlemix.inference.load_model` does and goes on with its program; passes
through the model are then made by all. The others load theirs and follow. They are started here, or all of them by
``paddle.distributed.launch``.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .models.registry import ModelFamily
from .options import ModelOptions
from .parallel.launch import end_with_parent, launched, start_processes
from .utils.dependencies import require

if TYPE_CHECKING:
    from .models.qwen_vl.modeling import QWenLMHeadModel
    from .parallel.group import TensorParallelGroup

_FOLLOWER = "from paddlemix.inference import load_follower; load_follower()"
_QUIET = {"GLOG_minloglevel": "2"}


def keep_quiet() -> None:
    """Keep what Paddle's C++ code tells of connections off the terminal; before Paddle is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def start_group(options: ModelOptions, directory: Path, family: ModelFamily, device: str) -> None:
    """Start the other processes of a model, where nobody has.

    Args:
        options: of the model, the same in all processes.
        directory: of the model.
        family: of the model.
        device: ``cpu`` or ``gpu:N``; on GPUs each process has its own.

    Raises:
        ConfigurationError: a model that cannot be split like this.
    """
    count = options.tensor_parallel
    fields = family.read_config(directory) or {}
    heads = int(fields.get("num_attention_heads", count))
    if count > heads:
        raise ConfigurationError(
            f"tensor_parallel: got {count} processes for {heads} attention heads, expected at most one for each"
        )
    on_gpu = device.startswith("gpu")
    if launched() == 1:
        if on_gpu:
            _require_gpus(count)
        _start(options, directory, count, on_gpu)
    elif launched() != count:
        raise ConfigurationError(
            f"tensor_parallel: got {count}, but {launched()} processes were started; give both the same number"
        )


def join_group(options: ModelOptions, directory: Path, device: str) -> TensorParallelGroup:
    """The processes that share a model, once all have come. Arguments are those of :func:`start_group`.

    Raises:
        ConfigurationError: processes that are not alike, or that cannot join.
    """
    from .parallel.group import TensorParallelGroup
    from .parallel.processes import check_alike, is_joined, join_processes

    if is_joined():
        raise ConfigurationError("tensor_parallel: this process has a split model already, expected one in each")
    join_processes(device.partition(":")[0])
    check_alike(fingerprint(options, directory))
    return TensorParallelGroup.of_all()


def lead_or_follow(model: QWenLMHeadModel) -> None:
    """In the first process, make the others follow; they return from here no more.

    Raises:
        SystemExit: in the others, once the first process has ended.
    """
    from .parallel.channel import CommandChannel
    from .parallel.processes import wait_for_everyone

    wait_for_everyone()
    channel = CommandChannel(model.group)
    if model.group.rank == 0:
        atexit.register(channel.close)
        model.channel = channel
        return
    from .engine.parallel_runner import follow
    from .models.qwen_vl.runner import QWenVLRunner

    paddle = require("paddle", "running a model")
    with paddle.no_grad():
        follow(QWenVLRunner(model), channel)
    raise SystemExit(0)


def follower_options() -> ModelOptions:
    """What the first process has written to this one, which it has started."""
    options: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    end_with_parent(sys.stdin.buffer)
    return ModelOptions(**options)


def fingerprint(options: ModelOptions, directory: Path) -> bytes:
    """What has to be the same in all processes: this package's version, the options, the files of the model."""
    from . import __version__

    files = sorted((path.name, path.stat().st_size) for path in directory.iterdir() if path.is_file())
    told = dataclasses.replace(options, model="", device=None, adapter=None)
    content = json.dumps([__version__, dataclasses.asdict(told), options.adapter is not None, files], default=str)
    return hashlib.sha256(content.encode()).digest()


def _start(options: ModelOptions, directory: Path, count: int, on_gpu: bool) -> None:
    told = dataclasses.replace(
        options, model=str(directory.resolve()), device="gpu" if on_gpu else "cpu", from_hf_hub=False
    )
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    message = json.dumps(dataclasses.asdict(told), default=str).encode()
    start_processes(count, [sys.executable, "-c", _FOLLOWER], message, on_gpu)


def _require_gpus(count: int) -> None:
    seen = require("paddle", "running a model").device.cuda.device_count()
    if seen < count:
        raise ConfigurationError(f"tensor_parallel: got {count} processes for {seen} GPU(s), expected one for each")
