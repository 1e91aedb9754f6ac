"""Carries the shared library with paddlemix's fused operators; ``paddlemix.ops`` loads it and calls them."""

from __future__ import annotations

__version__ = "0.1.0"
