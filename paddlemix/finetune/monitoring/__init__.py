"""Watching a training: a line of progress, a table, VisualDL, curves, images of answers beside the expected ones."""

from __future__ import annotations

from ...utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Watch": "callbacks",
        "remove_default_callbacks": "callbacks",
        "watching": "callbacks",
    },
)
