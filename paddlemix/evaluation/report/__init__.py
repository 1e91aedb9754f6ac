"""Scores, categories and the worst cases of runs as one HTML page, which asks nothing of any server.

``page``    the whole page
``cases``   single questions, with their images and boxes
``style``   its style sheet
"""

from __future__ import annotations

from .page import write_report

__all__ = ["write_report"]
