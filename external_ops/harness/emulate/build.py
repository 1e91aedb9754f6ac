"""Compiles a CUDA kernel for the CPU: a shared library per .cu file, by g++ alone, kept in the temporary directory."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUDA = HERE.parent.parent / "cuda"

FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",  # which forbids jumps from stack to stack
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized",
]  # fmt: skip
# -g names the kernel's line in a report.
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def build(name: str, sanitize: bool = False) -> Path:
    """Shared library with the launchers of external_ops/cuda/``name``.cu; see :func:`compile_kernel`."""
    return compile_kernel(CUDA / f"{name}.cu", sanitize)


def compile_kernel(kernel: Path, sanitize: bool = False) -> Path:
    """Shared library with the launchers of a .cu file, compiled unless it is there already.

    ``sanitize`` adds AddressSanitizer and UBSan; the process that loads it needs ``LD_PRELOAD=libasan.so``. Raises
    ``RuntimeError`` with the compiler's messages if the file does not compile.
    """
    flags = FLAGS + (SANITIZE if sanitize else [])
    sources = [kernel, HERE / "cuda_emulation.cc"]
    headers = sorted([*CUDA.glob("*.cuh"), *CUDA.glob("*.h"), *HERE.glob("*.h"), *(CUDA.parent / "cpu").glob("*.h")])
    digest = hashlib.sha256(" ".join(flags).encode())
    for path in sources + headers:
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"paddlemix-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{kernel.stem}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = ["g++", *flags, "-I", str(HERE), "-I", str(CUDA), "-x", "c++", *map(str, sources)]
        done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{kernel.name} does not compile for the CPU:\n{done.stderr}")
        unfinished.replace(library)
    return library
