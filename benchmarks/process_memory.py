"""Memory of this process, as Linux counts it."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path


def peak_gigabytes() -> float:
    """The most memory that the process has held at once so far, in units of 10⁹ bytes."""
    return _status("VmHWM") / 1e9


def resident_gigabytes() -> float:
    """The memory that the process holds at the moment, in units of 10⁹ bytes."""
    return _status("VmRSS") / 1e9


def reset_peak() -> None:
    """Hand back what an earlier computation freed, and count the peak anew from now on."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no field {name}")
