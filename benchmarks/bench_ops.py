"""Each CPU kernel alone, at the widths of the published model, beside its floor and plain Paddle.

``python benchmarks/bench_ops.py``                                  about two minutes; the table of docs/kernels.md
``python benchmarks/bench_ops.py --shrink 16 --repeats 2``          in seconds: does it run?

The floor is the time that this machine needs at least: for the bytes that must move, for the operations, or for the
call of an operator, whichever is longest; probes in every round say how fast the machine is at each. Kernel, plain
Paddle and probes take turns, and the best of all repetitions counts. README.md in this folder says how to read the
figures; kernel_cases.py has the kernels and their work.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import (
    MATMUL_PROBE_SIDE,
    READ_PROBE_BYTES,
    Workload,
    divisor,
    positive,
    probes,
    time_round,
    use_threads,
)
from benchmarks.kernel_cases import Kernel, Run, kernels
from benchmarks.peer import SETTLE_SECONDS
from benchmarks.shapes import Shapes

COPY_PROBE_BYTES = 2**24  # beyond the second-level caches, as what an operator of 1024 rows leaves to the next
PROBE_EVERY = 9  # kernels: the probes need as many chances of a quiet moment as these
TURN_SECONDS, LEAST_TIMES, MOST_TIMES = 0.1, 2, 200  # of a kernel in a round
# Operations that an instruction set does in the time of a float32 multiply-add.
GAIN = {
    "linear_w4": {"avx512": 4, "amx": 32},
    "linear_nf4": {"avx512": 4, "amx": 32},
    "linear_w8": {"avx512": 4, "amx": 32},
    "linear_w16": {"amx": 16},
}
# From so many rows on matrix tiles are used.
TILE_ROWS = {"linear_w4": 16, "linear_nf4": 16, "linear_w8": 16, "linear_w16": 9}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time each CPU kernel at the widths of the published model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--repeats", type=positive, default=12, help="rounds")
    parser.add_argument("--shrink", type=divisor, default=1, help="divide heads and widths by this; 16: quick trial")
    parser.add_argument("--only", metavar="NAME", help="kernels whose name contains this")
    return parser.parse_args(arguments)


# -------------------------------------------------------------------------------------------------------- measuring


def all_probes(threads: int) -> dict[str, Workload]:
    """Those of ``bench_model.py``; a copy from cache to cache; and the call of an operator that has nothing to do."""
    import paddle

    from paddlemix import ops

    source, target = (np.array_split(np.ones(COPY_PROBE_BYTES // 4, np.float32), threads) for _ in range(2))
    pool = ThreadPoolExecutor(threads)
    times = 8  # in one go, so that starting the threads does not count

    def copy(part: int) -> None:
        for _ in range(times):
            np.copyto(target[part], source[part])

    little, weight = paddle.randn([1, 16]), paddle.ones([16])
    return {
        **probes(threads),
        "copy": Workload(lambda: list(pool.map(copy, range(threads))), times, 3, SETTLE_SECONDS),
        "call": Workload(lambda: ops.rms_norm(little, weight, 1e-6), 1, MOST_TIMES),
    }


def timed_runs(kernel: Kernel) -> tuple[Workload, Workload]:
    """Kernel and plain Paddle, warmed up, each as often in a round as there is time for."""

    def workload(run: Run) -> Workload:
        run()
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        return Workload(run, 1, max(LEAST_TIMES, min(int(TURN_SECONDS / seconds), MOST_TIMES)))

    ours, plain = kernel.make()
    return workload(ours), workload(plain)


def measure(listed: list[Kernel], threads: int, repeats: int) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """Best seconds of each probe, and of each kernel and plain Paddle."""
    probe = all_probes(threads)
    runs = [timed_runs(kernel) for kernel in listed]
    probed = {name: float("inf") for name in probe}
    best = [(float("inf"), float("inf"))] * len(listed)
    for _ in range(repeats):
        for index, (ours, plain) in enumerate(runs):
            if index % PROBE_EVERY == 0:
                for name, work in probe.items():
                    probed[name] = min(probed[name], *time_round(work))
            best[index] = min(best[index][0], *time_round(ours)), min(best[index][1], *time_round(plain))
    return probed, best


# --------------------------------------------------------------------------------------------------------- the table


class Speeds(NamedTuple):
    """What the probes say: bytes per second, operations per second of float32, seconds of a call."""

    memory: float
    cache: float
    operations: float
    call: float

    @classmethod
    def of(cls, probed: dict[str, float]) -> Speeds:
        """From the seconds of each probe."""
        return cls(
            READ_PROBE_BYTES / probed["read"],
            2 * COPY_PROBE_BYTES / probed["copy"],
            2 * MATMUL_PROBE_SIDE**3 / probed["matmul"],
            probed["call"],
        )


def floor(kernel: Kernel, speeds: Speeds, instruction_set: str) -> tuple[float, str]:
    """Seconds that the machine needs at least, and what for."""
    gains = GAIN.get(kernel.name, {})
    if instruction_set == "amx" and kernel.rows < TILE_ROWS.get(kernel.name, 0):
        instruction_set = "avx512"
    gain = gains.get(instruction_set, 1)
    bandwidth = {"memory": speeds.memory, "cache": speeds.cache}.get(kernel.source, float("inf"))
    return max(
        (kernel.moved / bandwidth, kernel.source),
        (kernel.operations / (gain * speeds.operations), "arithmetic"),
        (speeds.call, "call"),
    )


def table(listed: list[Kernel], best: list[tuple[float, float]], speeds: Speeds, instruction_set: str) -> str:
    """The Markdown table; milliseconds throughout. ``best``: seconds of each kernel and of plain Paddle."""
    lines = [
        "| kernel | shape | floor | set by | time | share | GB/s | GOPS | plain Paddle | times faster |",
        "| --- | --- | --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for kernel, (ours, plain) in zip(listed, best):
        least, limit = floor(kernel, speeds, instruction_set)
        cells = [
            kernel.name,
            kernel.shape,
            f"{least * 1e3:.3f}",
            limit,
            f"{ours * 1e3:.3f}",
            f"{least / ours:.0%}",
            f"{kernel.moved / ours / 1e9:.1f}",
            f"{kernel.operations / ours / 1e9:.0f}",
            f"{plain * 1e3:.3f}",
            f"{plain / ours:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    use_threads(options.threads)
    import paddle

    from paddlemix import ops
    from paddlemix.ops import backend
    from paddlemix.utils.allocator import keep_freed_memory

    paddle.set_device("cpu")
    reason = backend.why_not("rms_norm", "cpu")
    if reason is not None:
        raise SystemExit(f"bench_ops.py: there are no kernels to time: {reason}")
    keep_freed_memory()
    paddle.seed(0)
    listed = [k for k in kernels(Shapes().shrunk(options.shrink)) if (options.only or "") in k.name]
    if not listed:
        raise SystemExit(f"bench_ops.py: --only {options.only}: no kernel has that in its name")
    instruction_set = ops.limit_instruction_set(ops.INSTRUCTION_SETS[-1])
    with paddle.no_grad(), ops.using("cpu"):
        probed, best = measure(listed, options.threads, options.repeats)
    speeds = Speeds.of(probed)
    print(
        f"Paddle {paddle.__version__}, instruction set {instruction_set}, {options.threads} thread(s), best of "
        f"{options.repeats} rounds.\nProbes: plain memory reads {speeds.memory / 1e9:.1f} GB/s, copy in the cache "
        f"{speeds.cache / 1e9:.1f} GB/s, float32 matrix product {speeds.operations / 1e9:.0f} GFLOPS, call of an "
        f"operator {speeds.call * 1e6:.1f} µs.\n"
    )
    print(table(listed, best, speeds, instruction_set))


if __name__ == "__main__":
    main()
