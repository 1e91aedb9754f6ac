from __future__ import annotations

import pytest

from tests.fuzz import counts


@pytest.fixture(autouse=True)
def counted() -> None:
    """Each test counts its own cases, and the memory that they took."""
    counts.begin()
