"""Everything that a machine with a GPU, nvcc and PyTorch can tell of the CUDA kernels, in one file and six minutes.

    python -m external_ops.harness.session --output gpu.md
    python -m external_ops.harness.session --dry-run

Paddle is not needed. Each step is a process of its own with a time limit; one that fails or misses a tool is told, and
the next one runs. The file has what every step printed, to be sent back as it is. With --dry-run the steps run on the
CPU, on the emulated kernels, less those that need the device: a trial of the script.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 200  # of a step's output that are kept, the last ones
METRICS = (
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "gpu__time_duration.sum",
)
PROFILED = "regex:few_rows_by_matrix|few_rows_by_columns|attention_decode_kernel|unpack_chunk"


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        limit: seconds after which it is stopped.
        tool: a program or Python package that it needs.
    """

    title: str
    command: Sequence[str]
    limit: int
    tool: str | None = None
    environment: tuple[tuple[str, str], ...] = ()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def device_steps() -> list[Step]:
    harness, decode = "external_ops.harness", "external_ops.harness.decode_step"
    tests = python("pytest", "-q", "-p", "no:cacheprovider", "--confcutdir=tests/ops/cuda", "tests/ops/cuda")
    on_device = (("PADDLEMIX_CUDA_DEVICE", "1"),)
    profiled = ["ncu", "--clock-control", "none", "--kernel-name", PROFILED, "--launch-count", "16"]
    profiled += ["--metrics", ",".join(METRICS)]
    return [
        Step("Build", python(harness, "--build-only"), 90, "nvcc"),
        Step("Edge cases on the device", tests, 90, "pytest", on_device),
        Step("Check and bandwidths", python(harness), 200),
        Step("Decode step", python(decode), 90),
        Step("Memory check", ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9",
                              *python(harness, "--check-only", "--quick")], 90, "compute-sanitizer"),
        Step("Race check", ["compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "9",
                            *python(harness, "--check-only", "--quick", "--ops", "rms_norm", "attention_decode",
                                    "linear_w4", "linear")], 90, "compute-sanitizer"),
        Step("Where the kernels wait", [*profiled, *python(decode, "--layers", "2", "--context", "1150")], 90, "ncu"),
    ]  # fmt: skip


def dry_steps() -> list[Step]:
    tests = python("pytest", "-q", "-p", "no:cacheprovider", "--confcutdir=tests/ops/cuda", "tests/ops/cuda")
    return [
        Step("Edge cases, emulated", [*tests, "-k", "up_to_64_rows"], 300, "pytest"),
        Step("Check, emulated", python("external_ops.harness", "--emulate", "--ops", "swiglu", "linear"), 300),
        Step("Decode step, emulated", python("external_ops.harness.decode_step", "--emulate", "--forms", "int4"), 300),
    ]


def is_there(tool: str) -> bool:
    return shutil.which(tool) is not None or importlib.util.find_spec(tool.replace("-", "_")) is not None


def run(step: Step) -> tuple[str, str]:
    """What became of a step in a few words, and what it printed."""
    if step.tool is not None and not is_there(step.tool):
        return f"left out: {step.tool} is not installed", ""
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **dict(step.environment)}
    try:
        done = subprocess.run(
            step.command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=step.limit,
        )  # fmt: skip
        printed, end = done.stdout, "ok" if done.returncode == 0 else f"FAILED with status {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        printed, end = expired.stdout or b"", f"STOPPED after {step.limit} s"
    lines = printed.decode(errors="replace").splitlines()
    return f"{end}, {time.monotonic() - begin:.0f} s", "\n".join(lines[-MOST_LINES:])


def machine() -> str:
    """Versions, the GPU and its clocks, the commit."""
    commands = [
        ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,clocks.sm,clocks.mem,memory.total", "--format=csv"],
        ["nvcc", "--version"],
        python("torch.utils.collect_env"),
        ["git", "log", "-1", "--format=%H %cd"],
    ]
    found = []
    for command in commands:
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            found.append(f"{command[0]}: {error}")
            continue
        lines = done.stdout.strip().splitlines()
        kept = [line for line in lines if not line.startswith(("[pip3]", "[conda]"))]
        found.append("\n".join(kept[:30]))
    return "\n\n".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu_session.md"), help="the file to send back")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with emulated kernels")
    options = parser.parse_args()
    parts = [f"# CUDA kernels{', a dry run' if options.dry_run else ''}\n\n```\n{machine()}\n```\n"]
    failed = 0
    for step in dry_steps() if options.dry_run else device_steps():
        print(f"{step.title} …", end=" ", flush=True)
        end, printed = run(step)
        print(end, flush=True)
        failed += not end.startswith(("ok", "left out"))
        shown = printed if "\n| " in printed else f"```\n{printed}\n```"
        parts.append(f"## {step.title}: {end}\n\n{shown if printed else ''}\n")
        options.output.write_text("\n".join(parts))  # what there is, should a later step hang the machine
    print(f"{options.output}: {failed} of the steps failed" if failed else f"{options.output} is complete")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
