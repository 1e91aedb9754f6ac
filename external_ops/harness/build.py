"""Builds the CUDA kernels into one shared library with nvcc alone: no Paddle, no PyTorch, and no GPU unless its
architecture is asked for."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HARNESS = Path(__file__).resolve().parent
CUDA = HARNESS.parent / "cuda"
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC"]


class BuildError(RuntimeError):
    """nvcc is missing or failed; the message says which and how."""


def cuda_sources() -> list[Path]:
    return sorted(CUDA.glob("*.cu"))


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME or CUDA_PATH, else the first on PATH, else that of the usual folder."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=os.path.join(home, "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def jobs_at_once() -> int:
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def gpu_archs() -> list[str]:
    """Compute capabilities of the GPUs at hand, such as ["90"]."""
    try:
        printed = run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    except (FileNotFoundError, BuildError):
        raise BuildError("no GPU found (nvidia-smi does not answer); name the architectures with --arch") from None
    return sorted({major + minor for major, minor in re.findall(r"^(\d+)\.(\d+)$", printed, re.M)})


def build(archs: list[str] | None = None, folder: Path | None = None) -> Path:
    """Compile what has changed and link; returns the library's path.

    archs: compute capabilities such as ["80", "90a"]; default: those of the GPUs at hand.
    folder: of the objects and the library; default: external_ops/build/harness.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc not found; install the CUDA toolkit, or name its folder in CUDA_HOME")
    archs = archs or gpu_archs()
    gencode = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    folder = folder or HARNESS.parent / "build" / "harness"
    folder.mkdir(parents=True, exist_ok=True)
    headers = b"".join(path.read_bytes() for path in sorted([*CUDA.glob("*.cuh"), *CUDA.glob("*.h")]))

    def compile_one(source: Path) -> Path:
        command = [nvcc, *NVCC_FLAGS, *gencode, "-c", str(source)]
        key = hashlib.sha256(headers + source.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
        target = folder / f"{source.stem}.{key}.o"
        if not target.exists():
            for stale in folder.glob(f"{source.stem}.*.o"):
                stale.unlink()
            partial = target.with_suffix(".partial")
            run([*command, "-o", str(partial)])
            partial.rename(target)
        return target

    with ThreadPoolExecutor(jobs_at_once()) as pool:
        objects = list(pool.map(compile_one, cuda_sources()))
    library = folder / "libpaddlemix_cuda.so"
    run([nvcc, "-shared", *gencode, *map(str, objects), "-o", str(library)])
    return library
