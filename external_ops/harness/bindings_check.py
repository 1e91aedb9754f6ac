"""Compiles the Paddle bindings the way a CUDA build does, where only the CPU build of Paddle is installed.

    python -m external_ops.harness.bindings_check

All wheels of Paddle carry the same headers, and those that the bindings include want no more of CUDA than the toolkit
of nvcc has (no cuBLAS, no cuDNN). The objects are then linked with the kernels, for one architecture unless
PADDLEMIX_CUDA_ARCHS names others, and loaded beside Paddle, so that every name in them is known to exist; nothing is
launched. Fails if any of this does; passes, saying so, without nvcc.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from .build import HARNESS, BuildError, find_nvcc, jobs_at_once, run

# All names are resolved at once, not at the first call.
LOAD = "import ctypes, os, sys, paddle; ctypes.CDLL(sys.argv[1], os.RTLD_NOW).paddlemix_ops_with_cuda() == 1 or exit(1)"


def load_setup() -> ModuleType:
    """external_ops/setup.py: its flags are the ones to check."""
    spec = importlib.util.spec_from_file_location("paddlemix_ops_setup", HARNESS.parent / "setup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    nvcc = find_nvcc()
    if nvcc is None:
        print("nvcc not found: skipped")
        return 0
    os.environ.setdefault("PADDLEMIX_CUDA_ARCHS", "80")
    os.environ["PADDLEMIX_WITH_CUDA"] = "1"
    setup = load_setup()
    paddle = setup.paddle_settings()
    with tempfile.TemporaryDirectory() as folder:
        jobs = setup.compile_jobs(Path(folder), paddle)
        started = time.monotonic()
        try:
            with ThreadPoolExecutor(jobs_at_once()) as pool:
                list(pool.map(lambda job: run(job.command), jobs))
            library = Path(folder) / "libpaddlemix_ops.so"
            run(setup.link_command([job.target for job in jobs], library, paddle))
            run([sys.executable, "-c", LOAD, str(library)])
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
    bindings = sum(job.target.name.startswith("paddle_") for job in jobs)
    print(
        f"{bindings} bindings compiled with CUDA, linked with {len(jobs) - bindings} files of kernels and loaded "
        f"beside Paddle {paddle.version} ({time.monotonic() - started:.0f} s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
