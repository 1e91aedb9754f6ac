"""What the libraries below have to be told about this machine's processor, and about processes that fork."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

MKL_CODE_PATH = "MKL_DEBUG_CPU_TYPE"
OPENMP_AT_FORK = "KMP_INIT_AT_FORK"
_AVX2 = "5"
_ON = ("true", "t", "1", "on", "yes", ".true.", ".t.", "enabled")


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


def environment_at_start() -> Mapping[str, str]:
    """The environment that this process was given, before any library wrote into it."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:  # not Linux
        return os.environ
    return dict(os.fsdecode(entry).partition("=")[::2] for entry in entries)


def let_openmp_survive_fork(
    environment: MutableMapping[str, str] = os.environ,
    given: Mapping[str, str] | None = None,
    started: bool | None = None,
) -> bool:
    """Have the OpenMP runtime in Paddle's libraries start its threads anew in a forked child.

    It does so unless ``KMP_INIT_AT_FORK`` says no when it starts. Then a child waits for ever for threads that only its
    parent has. scikit-learn, which PaddleNLP imports, says no for the whole process. What the user says stays.

    Args:
        environment: of this process; changed.
        given: the environment at the start of the process; read from the system by default.
        started: whether the runtime has started already, and so has read its settings; found out by default.

    Returns:
        Whether children of this process may use several threads.
    """
    given = environment_at_start() if given is None else given
    started = _openmp_has_started() if started is None else started
    now = environment.get(OPENMP_AT_FORK, "true").lower() in _ON
    if OPENMP_AT_FORK in given or started:
        return now
    environment[OPENMP_AT_FORK] = "true"
    return True


def _openmp_has_started() -> bool:
    """Whether Intel's and LLVM's runtime has left its mark, which ``os.environ`` does not show."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return getenv(f"__KMP_REGISTERED_LIB_{os.getpid()}".encode()) is not None
