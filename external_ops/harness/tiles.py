"""Weights in the tiles of the low-bit products, made with NumPy alone; cpu/paddlemix_cpu.h describes the layout."""

from __future__ import annotations

import numpy as np

TILE = 16
GROUP = 128


def pad(values: np.ndarray, inputs: int, fill: int = 0) -> np.ndarray:
    """``values`` [in, out] with ``in`` padded to a multiple of ``inputs`` and ``out`` to whole tiles."""
    rows, columns = values.shape
    return np.pad(values, ((0, -rows % inputs), (0, -columns % TILE)), constant_values=fill)


def interleave(values: np.ndarray, together: int) -> np.ndarray:
    """[in, out] to [tiles, in / together, 16, together]: ``together`` inputs of an output side by side."""
    rows, columns = values.shape
    blocks = values.reshape(rows // together, together, columns // TILE, TILE)
    return np.ascontiguousarray(blocks.transpose(2, 0, 3, 1))


def pack_w16(bits: np.ndarray) -> np.ndarray:
    """uint16 [in, out], the bits of float16 or bfloat16 weights, to tiles."""
    return interleave(pad(bits, 32), 2)


def pack_w8(q: np.ndarray) -> np.ndarray:
    """Integers [in, out] in [-127, 127] to tiles of uint8."""
    return interleave(pad((q + 128).astype(np.uint8), GROUP, 128), 4)


def pack_w4(q: np.ndarray) -> np.ndarray:
    """Integers [in, out] in [-8, 7] to tiles of uint8, two in each."""
    blocks = interleave(pad((q + 8).astype(np.uint8), GROUP, 8), 8)
    return np.ascontiguousarray(blocks[..., :4] | blocks[..., 4:] << 4)


def pack_scales(scales: np.ndarray) -> np.ndarray:
    """[groups, out] to [tiles, groups, 16]."""
    groups, columns = scales.shape
    padded = np.pad(scales, ((0, 0), (0, -columns % TILE)))
    return np.ascontiguousarray(padded.reshape(groups, -1, TILE).transpose(1, 0, 2))


def scale_of_inputs(scales: np.ndarray, in_features: int) -> np.ndarray:
    """[groups, out] to [in, out]: the scale of every weight; one group, or one per 128 inputs."""
    return np.repeat(scales, in_features if len(scales) == 1 else GROUP, axis=0)[:in_features]
