"""What a piece of code has Paddle do: the operators that it calls, and the values that it has the host read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import paddle
import paddle.profiler as profiler

from paddlemix.ops import backend

READS = ("numpy", "item", "tolist", "__array__", "__bool__", "__int__", "__float__", "__index__", "__dlpack__")


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """The names of the methods by which values of tensors reach the host, as they are called."""
    seen: list[str] = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **keywords: Any) -> Any:
            seen.append(name)
            return method(*arguments, **keywords)

        return call

    before = {name: getattr(paddle.Tensor, name) for name in READS if hasattr(paddle.Tensor, name)}
    for name, method in before.items():
        setattr(paddle.Tensor, name, noting(name, method))
    try:
        yield seen
    finally:
        for name, method in before.items():
            setattr(paddle.Tensor, name, method)


@contextmanager
def operator_calls() -> Iterator[list[str]]:
    """The kernels that ran, in order; the list is filled at the end. Those of the library have its names."""
    calls: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with profiler.RecordEvent(name):
                return function(*arguments)

        return call

    direct = {name: noted(name, function) for name, function in backend.library().direct.items()}
    watch = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
    with mock.patch.dict(backend.library().direct, direct):
        watch.start()
        try:
            yield calls
        finally:
            watch.stop()
    found: list[tuple[int, str]] = []

    def visit(node: Any) -> None:
        kind = str(node.type)
        if "KernelLaunch" in kind or node.name.startswith("paddlemix_"):
            found.append((node.start_ns, node.name))
        for child in node.children_node:
            visit(child)

    for root in watch.profiler_result.get_data().values():
        visit(root)
    calls += [name for _, name in sorted(found)]
