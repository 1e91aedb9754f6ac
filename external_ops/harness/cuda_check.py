"""Compiles every CUDA kernel for each GPU architecture, warnings as errors, and prints what the assembler says of it.

    python -m external_ops.harness.cuda_check [--arch 80 --arch 90a] [FILES]

No GPU is needed. Fails if a file does not compile or a kernel spills registers; passes, saying so, without nvcc.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .build import NVCC_FLAGS, cuda_sources, find_nvcc, jobs_at_once

DEFAULT_ARCHS = ("80", "90a")
STRICT_FLAGS = ["-Xcompiler", "-Wall,-Wextra,-Werror", "-Werror", "all-warnings", "-Xptxas", "-v"]


@dataclass
class Kernel:
    """What the assembler reports of one kernel for one architecture; sizes in bytes."""

    file: str
    name: str
    arch: str
    registers: int
    spilled: int
    stack: int
    shared: int


def compile_file(nvcc: str, source: Path, arch: str) -> tuple[list[Kernel], str]:
    """Compile one file; return its kernels, and the compiler's output if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-c", str(source), "-o", f"{folder}/kernel.o"]
        done = subprocess.run([nvcc, *NVCC_FLAGS, *STRICT_FLAGS, *target], capture_output=True, text=True)
    if done.returncode:
        return [], done.stdout + done.stderr
    return parse_report(done.stdout + done.stderr, source.name, arch), ""


def parse_report(report: str, file: str, arch: str) -> list[Kernel]:
    """The kernels in the output of ``ptxas -v``."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.S,
    )
    kernels = []
    for match in pattern.finditer(report):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spilled = int(match["stores"]) + int(match["loads"])
        sizes = (int(match["registers"]), spilled, int(match["stack"]), int(shared[1]) if shared else 0)
        kernels.append(Kernel(file, match["name"], arch, *sizes))
    return kernels


def readable(names: list[str]) -> list[str]:
    """Kernel names as they stand in the source, with template arguments and without parameters."""
    try:
        done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return names
    plain = []
    for name in done.stdout.splitlines():
        name = re.sub(r"\(anonymous namespace\)::|paddlemix::|^void ", "", name)
        name = re.sub(r"\((?:bool|int)\)(\w+)", r"\1", name).replace("__nv_bfloat16", "bf16").replace("__half", "fp16")
        plain.append(name.split("(")[0].replace("> >", ">>"))
    return plain


def print_table(kernels: list[Kernel]) -> None:
    print("| file | kernel | arch | registers | spill bytes | stack bytes | shared bytes |")
    print("|---|---|---|---:|---:|---:|---:|")
    for kernel, name in zip(kernels, readable([kernel.name for kernel in kernels])):
        sizes = f"{kernel.registers} | {kernel.spilled} | {kernel.stack} | {kernel.shared}"
        print(f"| {kernel.file} | {name} | sm_{kernel.arch} | {sizes} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", help="compute capability, such as 80; may be repeated")
    parser.add_argument("files", nargs="*", type=Path, help="default: all of external_ops/cuda")
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("nvcc not found: skipped")
        return 0
    sources = arguments.files or cuda_sources()
    work = [(nvcc, source, arch) for source in sources for arch in arguments.arch or DEFAULT_ARCHS]
    with ThreadPoolExecutor(jobs_at_once()) as pool:
        results = list(pool.map(lambda job: compile_file(*job), work))
    failures = [f"{job[1].name}, sm_{job[2]}:\n{log}" for job, (_, log) in zip(work, results) if log]
    kernels = [kernel for found, _ in results for kernel in found]
    print_table(kernels)
    spilling = sorted({kernel.file for kernel in kernels if kernel.spilled})
    failures += [f"{file}: a kernel spills registers" for file in spilling]
    print(f"\n{len(sources)} files, {len(kernels)} kernels, {len(failures)} failures")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
