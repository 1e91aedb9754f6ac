"""Watching a training: a line of progress, a table, VisualDL, curves, images of answers beside the expected ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .callbacks import Watch as Watch
    from .callbacks import remove_default_callbacks as remove_default_callbacks
    from .callbacks import watching as watching

_HOME = {
    "Watch": "callbacks",
    "remove_default_callbacks": "callbacks",
    "watching": "callbacks",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
