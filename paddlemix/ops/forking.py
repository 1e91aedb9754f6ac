"""Forked children of a process that has computed: they compute as well, at worst on one thread.

A child has none of its parent's threads. The OpenMP runtime in Paddle's libraries starts new ones, if it was told to in
time (``processors.let_openmp_survive_fork``). Another runtime, or one that was told otherwise, would wait for the lost
threads for ever: there both the kernels and Paddle's matrix products are kept to the one thread that the child has.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import paddle

from ..utils.paddle_internals import set_num_threads
from ._import_paddle import OPENMP_SURVIVES_FORK

_PADDLES_RUNTIME = Path(paddle.__file__).parent / "libs" / "libiomp5.so"  # external_ops/setup.py links it as well

_in_child_on_one_thread = False
_library: ctypes.CDLL | None = None
_was_dynamic = True  # in the thread that forks


def watch(library: ctypes.CDLL) -> None:
    """Keep this library's kernels to one thread in children where that is needed, and now if this is such a child."""
    global _library
    _library = library
    if _in_child_on_one_thread:
        library.paddlemix_cpu_set_threads(1)


def threads_survive() -> bool:
    """Whether a forked child of this process computes with several threads."""
    return OPENMP_SURVIVES_FORK and _PADDLES_RUNTIME.is_file()


def _before_fork() -> None:
    global _was_dynamic
    _was_dynamic = paddle.in_dynamic_mode()


def _after_fork_in_child() -> None:
    if _was_dynamic and not paddle.in_dynamic_mode():
        paddle.disable_static()  # Paddle falls back where another thread than the main one forks
    if not threads_survive():
        _compute_on_one_thread()


def _compute_on_one_thread() -> None:
    global _in_child_on_one_thread
    _in_child_on_one_thread = True
    set_num_threads(1)
    if _PADDLES_RUNTIME.is_file():
        ctypes.CDLL(str(_PADDLES_RUNTIME)).kmp_set_defaults(b"OMP_NUM_THREADS=1")  # for threads that the child starts
    if _library is not None:
        _library.paddlemix_cpu_set_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
