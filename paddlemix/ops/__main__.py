"""``python -m paddlemix.ops``: which implementation of each operator is chosen on this machine, and why not another."""

from __future__ import annotations

import argparse
import sys
import warnings

import paddle

from ..errors import PaddleMixError
from . import backend


def table() -> list[tuple[str, str, str, str]]:
    """One row per operator: name, backends available, the one chosen for float32 here, why not the kernels left out."""
    here = "cpu" if paddle.get_device() == "cpu" else "cuda"
    mode = backend.mode()
    rows = []
    for name in backend.OPERATORS:
        # What the library offers does not depend on the choice.
        with backend.using("auto"):
            reasons = {device: backend.why_not(name, device) for device in ("cpu", "cuda")}
        available = ["reference", *(device for device, reason in reasons.items() if reason is None)]
        for device in reasons:
            if device != here and reasons[device] is None:
                reasons[device] = f"Paddle computes on {here} here"
        kernel_runs = reasons[here] is None and mode in ("auto", here)
        if mode == "reference":
            chosen = "reference"
            reasons[here] = reasons[here] or "plain Paddle was asked for"
        elif kernel_runs:
            chosen = here
        else:
            chosen = "reference" if mode == "auto" else f"none, {mode} was asked for"
        rows.append((name, ", ".join(available), chosen, "; ".join(f"{k}: {v}" for k, v in reasons.items() if v)))
    return rows


def report() -> tuple[str, int]:
    """What to print, and 1 if an implementation was asked for by name that an operator does not have."""
    lines = [f"PADDLEMIX_OPS={backend.mode()}, Paddle {paddle.__version__} on {paddle.get_device()}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the library's trouble is told here, once
        library = backend.library()
    if library.missing is None and library.functions is not None:
        used = backend.INSTRUCTION_SETS[library.functions.paddlemix_cpu_isa()]
        lines.append(f"CPU kernels: instruction set {used}, {backend.default_threads()} thread(s)")
    else:
        lines.append(f"no kernels: {library.missing}")
    heading = ("operator", "available", "chosen", "why not the others")
    rows = table() if library.missing is None else [(*row[:3], "no kernels") for row in table()]
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(3)]
    for row in (heading, *rows):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip())
    return "\n".join(lines), int(any(chosen.startswith("none") for _, _, chosen, _ in rows))


def main() -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m paddlemix.ops",
        description="Tell which implementation of each operator is chosen on this machine, and why not another.",
        epilog=f"The environment variable PADDLEMIX_OPS chooses: {', '.join(backend.MODES)}.",
    )
    parser.parse_args()
    try:
        text, status = report()
    except PaddleMixError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
