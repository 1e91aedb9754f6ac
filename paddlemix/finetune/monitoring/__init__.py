"""Training monitoring: progress line, log table, learning curves, VisualDL, images of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .callbacks import TrainingMonitor as TrainingMonitor
    from .callbacks import monitor_training as monitor_training
    from .callbacks import remove_default_callbacks as remove_default_callbacks

_HOME = {
    "TrainingMonitor": "callbacks",
    "monitor_training": "callbacks",
    "remove_default_callbacks": "callbacks",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
