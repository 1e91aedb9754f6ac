"""Work that a GPU repeats without the host: one launch for hundreds of operators."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import paddle
from paddle.device.cuda import graphs

from .paddle_internals import current_place

SWITCH = "PADDLEMIX_CUDA_GRAPHS"
"""Environment variable that turns them off with ``0``."""


def can_capture() -> bool:
    """Whether CUDA graphs are recorded on the current device."""
    on_gpu = paddle.get_device().startswith("gpu")
    return on_gpu and os.environ.get(SWITCH) != "0" and graphs.is_cuda_graph_supported()


def captured(work: Callable[[], Any], prepare: Callable[[], None]) -> Callable[[], Any]:
    """``work`` as a CUDA graph; where none can be recorded, ``work`` itself.

    Every operator of ``work`` finds its inputs at the addresses of the time of capture, and leaves its outputs at the
    same addresses in every call.

    Args:
        work: launches operators, always the same ones, and reads no value back.
        prepare: brings what ``work`` reads into the state that it starts from. It is called before each of the runs
            that allocate what is needed, and after the capture, which computes nothing.

    Returns:
        A function that does the work and returns what ``work`` does.
    """
    if not can_capture():
        return work
    for _ in range(2):
        prepare()
        work()
    paddle.device.synchronize()
    graph = graphs.CUDAGraph(current_place())
    graph.capture_begin()
    result = work()
    graph.capture_end()
    prepare()

    def replay() -> Any:
        graph.replay()
        return result

    return replay
