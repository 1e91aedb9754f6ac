"""``python -m paddlemix.ops``: which implementation of each operator is chosen on this machine, and why."""

from __future__ import annotations

import sys

import paddle

from . import backend


def table() -> list[tuple[str, str, str, str]]:
    """One row per operator: name, backends available, the one chosen for float tensors here, why not the others."""
    device = "cpu" if paddle.get_device() == "cpu" else "cuda"
    rows = []
    for name in backend.OPERATORS:
        # What the library offers does not depend on the choice, hence the reasons under "auto".
        with backend.using("auto"):
            reasons = {other: _reason(name, other, device) for other in ("cpu", "cuda")}
        available = ["reference", *(other for other, reason in reasons.items() if reason is None)]
        mode = backend.mode()
        if mode == "auto":
            chosen = device if reasons[device] is None else "reference"
        else:
            chosen = mode if mode in available else f"none ({mode} was asked for)"
        rows.append((name, ", ".join(available), chosen, "; ".join(f"{k}: {v}" for k, v in reasons.items() if v)))
    return rows


def _reason(operator: str, device: str, running_on: str) -> str | None:
    reason = backend.why_not(operator, device)
    if reason is None and device == "cuda" and running_on == "cpu":
        return "Paddle runs on the CPU here"
    return reason


def main() -> int:
    library = backend.library()
    print(f"PADDLEMIX_OPS={backend.mode()}, Paddle {paddle.__version__} on {paddle.get_device()}")
    if library.functions is not None:
        used = backend.INSTRUCTION_SETS[library.functions.paddlemix_cpu_isa()]
        print(f"CPU kernels: instruction set {used}")
    if library.missing is not None:
        print(library.missing)  # once, not in every row
    rows = [("operator", "available", "chosen", "why not the others"), *table()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        reason = "" if library.missing is not None and row is not rows[0] else row[3]
        print("  ".join([*cells, reason]).rstrip())
    return 1 if any(row[2].startswith("none") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
