"""A tensor as a stream of small pieces, transposed and converted on the way: no large one is ever copied whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .dtypes import cast

#: elements in a piece; a few such pieces are alive at a time
PIECE = 8 << 20
#: source rows in a transposed tile: its columns stay in the processor's cache
TILE_ROWS = 1024


def pieces(array: np.ndarray, transpose: bool = False) -> Iterator[np.ndarray]:
    """``array`` (or its transpose, for 2-d) in row-major order as C-contiguous pieces of at most about ``PIECE``
    elements; concatenated and flattened they are the whole.
    """
    if transpose:
        yield from _transposed(array)
    elif array.ndim == 0 or array.size <= PIECE:
        yield np.ascontiguousarray(array)
    else:
        rows = max(1, PIECE // (array.size // array.shape[0]))
        for start in range(0, array.shape[0], rows):
            yield np.ascontiguousarray(array[start : start + rows])


def _transposed(array: np.ndarray) -> Iterator[np.ndarray]:
    height, width = array.shape
    columns = max(1, PIECE // max(1, height))
    for left in range(0, width, columns):
        right = min(left + columns, width)
        piece = np.empty((right - left, height), array.dtype)
        for top in range(0, height, TILE_ROWS):
            piece[:, top : top + TILE_ROWS] = array[top : top + TILE_ROWS, left:right].T
        yield piece


def converted(array: np.ndarray, transpose: bool, source: str, target: str) -> Iterator[np.ndarray]:
    """:func:`pieces` of ``array`` (tag ``source``) with the element type ``target``."""
    for piece in pieces(array, transpose):
        yield cast(piece, source, target)
