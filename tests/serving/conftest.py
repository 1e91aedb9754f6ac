"""Fixtures of the server's tests. Without the packages of the extra ``serve`` there is nothing here to test."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.zoo import DEFAULT_MODEL_DIR

if TYPE_CHECKING:
    from tests.serving.harness import Running
    from tests.serving.page_driver import Page

NEEDED = ("fastapi", "httpx", "llguidance", "prometheus_client", "uvicorn")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, NEEDED)) else ["test_*.py", "*/test_*.py"]


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The one browser of all tests."""
    from tests.serving.page_driver import browser_or_skip

    it = browser_or_skip()
    yield it
    it.quit()


@pytest.fixture
def page_of(browser: Any, tmp_path: Path) -> Iterator[Callable[[str], Page]]:
    """``page_of(url)``: the page of a server; at the end its console must be clean."""
    from tests.serving.page_driver import Page

    pages = []

    def make(url: str) -> Page:
        pages.append(Page(browser, url, tmp_path))
        return pages[-1]

    yield make
    for page in pages:
        page.check()
    browser.get("about:blank")


@pytest.fixture
def page(server: Running, page_of: Callable[[str], Page]) -> Page:
    """The page of the server that most tests share."""
    return page_of(server.url).open()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image file, 200 x 100, red."""
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.new("RGB", (200, 100), (200, 30, 30)).save(path)
    return path
