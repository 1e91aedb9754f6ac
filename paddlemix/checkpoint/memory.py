"""Whether the weights of a model fit into the memory of this machine, asked before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import NotEnoughMemoryError
from ..quantization.plan import QUANTIZATIONS, QuantizationPlan, plan_for, weight_bytes
from . import dtypes


def check_memory(
    config: Any,
    dtype: str,
    available: int | None = None,
    plan: QuantizationPlan | None = None,
    *,
    stored_quantized: bool = False,
) -> None:
    """Raise NotEnoughMemoryError, with the numbers, if the weights of a model with ``config`` do not fit into memory as
    ``dtype``, or, those that it names, in the formats of ``plan``. ``available`` is in bytes; without it, the machine's
    available memory and the limit of the control group, if there is one, count. ``stored_quantized``: the files hold
    the formats of ``plan``, and cannot be quantised again."""
    needed = weight_bytes(config, dtypes.check_target(dtype), plan)
    if available is None:
        available = available_memory()
    if available is None or needed <= available:
        return
    smaller = {name: weight_bytes(config, dtype, plan_for(None, name, None)) for name in QUANTIZATIONS}
    fitting = [f"{name!r} ({size / 1e9:.1f} GB)" for name, size in smaller.items() if size <= available]
    advice = f"quantization= {' or '.join(fitting)} would fit" if fitting else "use a larger machine"
    if fitting and stored_quantized:
        advice = f"the model's float weights with {advice}"
    if dtype == "float32" and plan is None:
        advice += ", and on a GPU bfloat16 takes half"
    kind = dtype if plan is None else f"quantised ({plan})"
    raise NotEnoughMemoryError(
        f"{kind} weights need {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; {advice}"
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
