"""Chats of the tests leave the home of whoever runs them alone."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs keep for their user, such as the lines of chats, is not that of whoever runs the tests."""
    monkeypatch.setenv("PADDLEMIX_HOME", str(tmp_path / "home"))
