"""Imports Paddle without what it tells its own developers; this package's first import."""

from ..utils.dependencies import require
from ..utils.mkl import let_mkl_use_avx2, let_openmp_survive_fork

let_mkl_use_avx2()
OPENMP_SURVIVES_FORK = let_openmp_survive_fork()
require("paddle", "paddlemix.ops")
