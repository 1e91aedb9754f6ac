"""What the libraries below have to be told about this machine's processor."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

MKL_CODE_PATH = "MKL_DEBUG_CPU_TYPE"
_AVX2 = "5"


def let_mkl_use_avx2(cpuinfo: Path = Path("/proc/cpuinfo"), environment: MutableMapping[str, str] = os.environ) -> bool:
    """Have Paddle's MKL run its AVX2 code on AMD's processors too; before the first matrix product of the process.

    The MKL in Paddle's CPU libraries asks for the maker, not for the instructions, and takes its slowest code for
    everybody but Intel. The float32 product that ``benchmarks/bench_model.py`` probes, 2048 x 2048 on two threads of an
    EPYC with AVX-512, reached 186 GFLOPS with this and 76 with ``MKL_DEBUG_CPU_TYPE=0``. MKL's AVX-512 code was hardly
    faster there than its AVX2 code. A value that is set already stays.

    Returns:
        Whether this changed the environment.
    """
    if MKL_CODE_PATH in environment or not _is_amd_with_avx2(cpuinfo):
        return False
    environment[MKL_CODE_PATH] = _AVX2
    return True


def _is_amd_with_avx2(cpuinfo: Path) -> bool:
    try:
        first = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:  # not Linux
        return False
    fields = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in first.splitlines())}
    return fields.get("vendor_id") == ["AuthenticAMD"] and {"avx2", "fma"} <= set(fields.get("flags", []))
