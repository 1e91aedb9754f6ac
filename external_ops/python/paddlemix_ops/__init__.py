"""Carries the shared library with paddlemix's fused operators; ``paddlemix.ops`` loads it and calls them."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

LIBRARY = Path(__file__).resolve().parent / "libpaddlemix_ops.so"
