"""Memory that a computation frees is kept for its next step, instead of being handed back to the system each time."""

from __future__ import annotations

import ctypes
import platform

# Numbers of glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory(largest_block: int = 2**28) -> bool:
    """Let the C library keep freed blocks of up to ``largest_block`` bytes, twice that in all, for the whole process.

    Paddle returns every CPU tensor to the C library at once, and that returns large ones to the system. The system
    hands memory out page by page, filled with zeros, which takes longer than most elementwise operators need for their
    work: an eighth of the time of a ViT layer at the published width.

    Returns:
        Whether it was possible; only glibc can be told so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, largest_block) and mallopt(_M_TRIM_THRESHOLD, 2 * largest_block))
