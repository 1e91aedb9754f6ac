"""Whether the weights of a model fit into the memory of this machine, asked before they are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import dtypes
from ..checkpoint.layouts import WeightTable
from ..checkpoint.shards import Shard
from ..errors import NotEnoughMemoryError
from .plan import QUANTIZATIONS, QuantizationPlan, plan_for, weight_bytes


def check_memory(
    table: WeightTable,
    config: Any,
    dtype: str,
    available: int | None = None,
    plan: QuantizationPlan | None = None,
    shards: Mapping[str, Shard] | None = None,
    *,
    stored_quantized: bool = False,
    working: int = 0,
) -> None:
    """Refuse a model that does not fit into memory, with the numbers.

    Args:
        table: the weights.
        config: the model's configuration.
        dtype: of the weights that ``plan`` does not name.
        available: bytes; by default the machine's available memory and the limit of the control group, if there is one.
        plan: formats of weights.
        shards: the parts of weights that this process has.
        stored_quantized: the files hold the formats of ``plan``, and cannot be quantized again.
        working: bytes that are needed beside the weights to use the model at all: cache and activations.

    Raises:
        NotEnoughMemoryError: it does not fit.
    """
    needed = weight_bytes(table, config, dtypes.check_target(dtype), plan, shards)
    if available is None:
        available = available_memory()
    if available is None or needed + working <= available:
        return
    smaller = {name: weight_bytes(table, config, dtype, plan_for(None, name, None), shards) for name in QUANTIZATIONS}
    fitting = [f"{name!r} ({size / 1e9:.1f} GB)" for name, size in smaller.items() if size + working <= available]
    advice = f"quantization= {' or '.join(fitting)} would fit" if fitting else "use a larger machine"
    if fitting and stored_quantized:
        advice = f"the model's float weights with {advice}"
    if dtype == "float32" and plan is None:
        advice += ", and on a GPU bfloat16 takes half"
    kind = dtype if plan is None else f"quantized ({plan})"
    beside = f" and an answer at least {working / 1e9:.1f} GB" if working > 5e7 else ""
    raise NotEnoughMemoryError(
        f"{kind} weights need {needed / 1e9:.1f} GB of memory{beside}, {available / 1e9:.1f} GB are available; {advice}"
    )


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not tell (not Linux).

    The least of what the machine has and what each control group of this process leaves, from its own up to the
    outermost: containers, SLURM and systemd set limits at any of them, of either version of control groups.
    """
    limits = [_left_in(folder, names) for folder, names in _control_groups(proc, cgroup)]
    for line in _text(proc / "meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and len(words) > 1 and words[1].isdecimal():
            limits.append(int(words[1]) * 1024)
    return min((limit for limit in limits if limit is not None), default=None)


#: files with the limit, the usage and the statistics of a control group
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
_VERSION_2 = ("memory.max", "memory.current", "memory.stat")


def _control_groups(proc: Path, cgroup: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of this process's control groups that may limit memory, and the names of the files that say so."""
    paths = {"memory": "", "": ""}  # by controller; version 2 has none
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update({name: path for name in controllers.split(",") if name in paths})
    for mount, path, names in (
        (cgroup, paths[""], _VERSION_2),
        (cgroup / "unified", paths[""], _VERSION_2),  # where both versions are in use
        (cgroup / "memory", paths["memory"], _VERSION_1),
    ):
        for folder in _upwards(mount, path):
            yield folder, names


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a control group below ``mount``, and those around it, ``mount`` last.

    In a container the path may begin outside of what is mounted: its longest end that is there counts.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    ends = (parts[start:] for start in range(len(parts)))
    found = next((end for end in ends if mount.joinpath(*end).is_dir()), [])
    for count in range(len(found), -1, -1):
        yield mount.joinpath(*found[:count])


def _left_in(group: Path, names: tuple[str, str, str]) -> int | None:
    """Bytes that a control group still grants; None where it has no limit."""
    most, used = (_text(group / name).strip() for name in names[:2])
    if not (most.isdecimal() and used.isdecimal()):
        return None
    # cached file pages count as used but are given back when memory is asked for
    lines = (line.split() for line in _text(group / names[2]).splitlines())
    cached = sum(int(words[-1]) for words in lines if words[:1] == ["inactive_file"] and words[-1].isdecimal())
    return max(0, int(most) - int(used) + cached)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
