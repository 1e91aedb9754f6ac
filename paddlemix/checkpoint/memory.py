"""Whether the weights of a model fit into the memory of this machine, asked before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import NotEnoughMemoryError
from . import dtypes, layouts


def check_memory(config: Any, dtype: str, available: int | None = None) -> None:
    """Raise NotEnoughMemoryError, with the numbers, if the weights of a model with ``config`` do not fit into memory as
    ``dtype``. ``available`` is in bytes; without it, the machine's available memory and the limit of the control group,
    if there is one, count."""
    needed = layouts.parameter_count(config) * dtypes.STORAGE[dtypes.check_target(dtype)].itemsize
    if available is None:
        available = available_memory()
    if available is not None and needed > available:
        raise NotEnoughMemoryError(
            f"{dtype} weights need {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
            "use a larger machine" + (", or a GPU, where bfloat16 takes half of it" if dtype == "float32" else "")
        )


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not tell (not Linux)."""
    limits = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for limit, usage, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        most, used = _text(cgroup / limit).strip(), _text(cgroup / usage).strip()
        if most.isdigit() and used.isdigit():
            # cached file pages count as used but are given back when memory is asked for
            lines = (line.split() for line in _text(cgroup / stat).splitlines())
            cached = sum(int(words[1]) for words in lines if len(words) == 2 and words[0] == "inactive_file")
            limits.append(max(0, int(most) - int(used) + cached))
    return min(limits) if limits else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
