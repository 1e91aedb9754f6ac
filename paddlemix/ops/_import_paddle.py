"""Imports Paddle without what it tells its own developers; this package's first import."""

from ..dependencies import require
from ..processors import let_mkl_use_avx2

let_mkl_use_avx2()
require("paddle", "paddlemix.ops")
