"""Imports Paddle without what it tells its own developers; this package's first import."""

from ..dependencies import require

require("paddle", "paddlemix.ops")
