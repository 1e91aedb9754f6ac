"""Compiles every CUDA kernel for each GPU architecture, warnings as errors, and looks at what came of it.

    python -m external_ops.harness.cuda_check [--arch 80 --arch 90a] [FILES]

No GPU is needed. Fails if a file does not compile, a kernel spills registers, or its machine code breaks a rule of
``sass.py``; that needs nvdisasm, from the CUDA toolkit or the package nvidia-cuda-nvdisasm, and is left out, saying so,
without it. Passes, saying so, without nvcc. Architectures that nvcc does not know are left out: 7.0 left CUDA with 13.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import sass
from .build import NVCC_FLAGS, cuda_sources, find_nvcc, jobs_at_once, run

DEFAULT_ARCHS = ("70", "75", "80", "86", "89", "90", "100", "120")
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


@dataclass
class Result:
    """What came of one file for one architecture.

    Attributes:
        kernels: as the assembler reports them.
        faults: rules of ``sass.py`` that their code breaks, one line each.
        log: the compiler's output if it failed.
    """

    kernels: list[Kernel] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    log: str = ""


def find_nvdisasm(nvcc: str) -> str | None:
    """The disassembler of the toolkit, on PATH, or of the Python package nvidia-cuda-nvdisasm."""
    packages = sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/bin"), reverse=True)
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders = [*([os.path.join(home, "bin")] if home else []), os.path.dirname(nvcc), *map(str, packages)]
    return shutil.which("nvdisasm") or shutil.which("nvdisasm", path=os.pathsep.join(folders))


def known_archs(nvcc: str) -> list[str]:
    """Those of ``DEFAULT_ARCHS`` that this nvcc compiles for."""
    listed = run([nvcc, "--list-gpu-code"]).split()
    return [arch for arch in DEFAULT_ARCHS if f"sm_{arch}" in listed]


def check_file(nvcc: str, nvdisasm: str | None, source: Path, arch: str) -> Result:
    """Compile one file for one architecture and look at its code."""
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/kernel.cubin"
        target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-cubin", str(source), "-o", binary]
        done = subprocess.run([nvcc, *NVCC_FLAGS, *STRICT_FLAGS, *target], capture_output=True, text=True)
        if done.returncode:
            return Result(log=done.stdout + done.stderr)
        result = Result(parse_report(done.stdout + done.stderr, source.name, arch))
        if nvdisasm is not None:
            codes = list(sass.parse(run([nvdisasm, "-c", binary])))
            names = readable([code.name for code in codes])
            result.faults = [fault for name, code in zip(names, codes) for fault in sass.faults(name, code)]
    return result


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
    parser.add_argument("--tools", action="store_true", help="only fail where nvcc is found and nvdisasm is not")
    parser.add_argument("files", nargs="*", type=Path, help="default: all of external_ops/cuda")
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    if arguments.tools:
        return 1 if nvcc is not None and find_nvdisasm(nvcc) is None else 0
    if nvcc is None:
        print("nvcc not found: skipped")
        return 0
    sources = arguments.files or cuda_sources()
    nvdisasm = find_nvdisasm(nvcc)
    work = [(nvcc, nvdisasm, source, arch) for arch in arguments.arch or known_archs(nvcc) for source in sources]
    with ThreadPoolExecutor(jobs_at_once()) as pool:
        results = list(pool.map(lambda job: check_file(*job), work))
    failures = [f"{source.name}, sm_{arch}:\n{r.log}" for (_, _, source, arch), r in zip(work, results) if r.log]
    failures += [
        f"{source.name}, sm_{arch}: {fault}"
        for (_, _, source, arch), result in zip(work, results)
        for fault in result.faults
    ]
    kernels = [kernel for result in results for kernel in result.kernels]
    print_table(kernels)
    spilling = sorted({(kernel.file, kernel.arch) for kernel in kernels if kernel.spilled})
    failures += [f"{file}, sm_{arch}: a kernel spills registers" for file, arch in spilling]
    code = "machine code read" if nvdisasm else "nvdisasm not found: machine code not read"
    print(f"\n{len(sources)} files, {len(kernels)} kernels, {code}, {len(failures)} failures")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
