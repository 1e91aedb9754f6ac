"""How certain a score is: 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054
_RESAMPLES = 1000
_RESAMPLED_VALUES = 2_000  # above, the mean is as good as normal


def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """Interval of a share, 0 to 1. Source: Wilson (1927)."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, center - margin), min(1.0, center + margin)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Interval of a mean: percentiles over resamples (Efron, 1979), for many values by the normal distribution."""
    array = np.asarray(values, np.float64)
    if len(array) > _RESAMPLED_VALUES:
        margin = Z * float(array.std(ddof=1)) / math.sqrt(len(array))
        return float(array.mean()) - margin, float(array.mean()) + margin
    generator = np.random.default_rng(seed)
    means = [array[generator.integers(0, len(array), len(array))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval of the mean of credits between 0 and 1: Wilson's for hits and misses, a bootstrap for the rest."""
    if all(value in (0.0, 1.0) for value in values):
        return wilson_interval(sum(values), len(values))
    return bootstrap_interval(values)
