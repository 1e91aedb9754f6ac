"""Fixtures of the server's tests. Without the packages of the extra ``serve`` there is nothing here to test."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.zoo import DEFAULT_MODEL_DIR

if TYPE_CHECKING:
    from tests.serving.harness import Running

NEEDED = ("fastapi", "httpx", "llguidance", "prometheus_client", "uvicorn")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, NEEDED)) else ["test_*.py"]


@pytest.fixture(scope="session")
def processor() -> QwenVLProcessor:
    return QwenVLProcessor.from_directory(DEFAULT_MODEL_DIR)


@pytest.fixture(scope="session")
def shared(processor: QwenVLProcessor) -> Iterator[Running]:
    from tests.serving.harness import running

    with running(processor) as it:
        yield it


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    """The server that most tests share, with its engine as new."""
    shared.idle()
    shared.engine.__init__(shared.engine.tokenizer)
    yield shared
    shared.engine.paused, shared.engine.step_seconds = False, 0.0


@pytest.fixture
def start(processor: QwenVLProcessor) -> Callable:
    """``with start(...) as server``: a server of one's own."""
    from tests.serving.harness import running

    return lambda **changes: running(processor, **changes)
