"""Getting images safely: one loader for every entry point, and the policy that says what it may read.

The model never opens a file or a URL; whatever a user hands in goes through :func:`load_image`.
"""

from __future__ import annotations

from .fetch import fetch
from .loading import load_image
from .policy import ImagePolicy

__all__ = ["ImagePolicy", "fetch", "load_image"]
