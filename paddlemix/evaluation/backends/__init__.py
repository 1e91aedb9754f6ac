"""What answers the questions: a model in the engine of this process, or a server."""

from __future__ import annotations

from .base import AHEAD, Backend, Failure

__all__ = ["AHEAD", "Backend", "Failure"]
