from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paddlemix.checkpoint import download
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads of other stores than Hugging Face go; nothing outside of ``tmp_path`` is looked into."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("PADDLEMIX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for variable in (
        "PPMIX_HOME",
        "XDG_CACHE_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "models"
