from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.checkpoint.store_server import Store, serve


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """All public stores in one, on this machine; the environment points to it."""
    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.address)
        monkeypatch.setenv("COMMUNITY_MODEL_PREFIX", running.address + "/community")
        monkeypatch.delenv("PADDLEMIX_OFFLINE", raising=False)
        yield running
