"""Fixtures with which a test runs on plain Paddle, on the fused kernels of the CPU, or on both.

Paddle is imported where they are used, so that other tests need not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def require_library() -> None:
    """Skip without the built operators; fail instead when PADDLEMIX_REQUIRE_OPS=1, as ``make test`` sets."""
    from paddlemix.ops import backend

    missing = backend.library().missing
    if missing is not None:
        if os.environ.get("PADDLEMIX_REQUIRE_OPS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
def fused() -> Iterator[None]:
    """The test runs on the CPU's fused kernels, and fails where one of them cannot run."""
    from paddlemix.ops import backend

    require_library()
    with backend.using("cpu"):
        yield


@pytest.fixture(params=["reference", "cpu"])
def any_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs twice: in plain Paddle, and on the CPU's fused kernels."""
    from paddlemix.ops import backend

    if request.param == "cpu":
        require_library()
    with backend.using(request.param):
        yield request.param


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Let the kernels compute in this precision; without the library there is none to choose."""
    from paddlemix.ops import backend

    if backend.library().missing is not None:
        yield
        return
    before = backend.set_matmul_precision(name)
    try:
        yield
    finally:
        backend.set_matmul_precision(before)


def each_instruction_set() -> Iterator[str]:
    """Limit the kernels to each of the CPU's instruction sets that this machine has, in turn.

    For tests that compute their expectation once and compare all of them with it; needs the fixture ``fused``.
    """
    from paddlemix.ops import backend

    try:
        for name in backend.INSTRUCTION_SETS:
            if backend.limit_instruction_set(name) == name:
                yield name
    finally:
        backend.limit_instruction_set(backend.INSTRUCTION_SETS[-1])


@pytest.fixture(params=["portable", "avx2", "avx512", "amx"])
def instruction_set(request: pytest.FixtureRequest, fused: None) -> Iterator[str]:
    """The test runs on each of the CPU's instruction sets that this machine has."""
    from paddlemix.ops import backend

    if backend.limit_instruction_set(request.param) != request.param:
        backend.limit_instruction_set("amx")
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    backend.limit_instruction_set("amx")
