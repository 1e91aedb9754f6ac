"""Coordinates as soft targets: the digits of all values near the right one, not of that one alone.

A model that says 449 where 451 is right is nearly right, but has two digits wrong of three. So each digit is taught as
the share that it has among the values near the right one, weighted by a bell curve, that begin with the digits before
it: the digits of a value drawn from that curve, one after the other.
"""

from __future__ import annotations

from functools import cache

import numpy as np

DIGITS = 3
VALUES = 10**DIGITS
SPREAD = 4.0  # standard deviation of the bell curve, in thousandths of the image's side


@cache
def digit_shares(padded: bool = False) -> np.ndarray:
    """float32 ``[VALUES, DIGITS, 10]``: of each value and digit the share of 0 to 9, given the right digits before it.

    Args:
        padded: with leading zeros (007), or as a number is written (7), whose missing digits then have zeros all over.
    """
    texts = [f"{value:0{DIGITS}}" if padded else str(value) for value in range(VALUES)]
    shares = np.zeros((VALUES, DIGITS, 10), np.float64)
    reach = int(4 * SPREAD)
    for value, text in enumerate(texts):
        for near in range(max(0, value - reach), min(VALUES, value + reach + 1)):
            weight = np.exp(-0.5 * ((near - value) / SPREAD) ** 2)
            for place in range(min(len(text), len(texts[near]))):
                shares[value, place, int(texts[near][place])] += weight
                if texts[near][place] != text[place]:
                    break
    totals = shares.sum(axis=-1, keepdims=True)
    return (shares / np.where(totals, totals, 1.0)).astype(np.float32)
