"""Linear layer over weights of 4 bits: symmetric, one float16 scale per output and 128 inputs, packed into tiles.

Tiles (see ``external_ops/cpu/paddlemix_cpu.h``): ``[ceil(out / 16), in / 8, 16, 4]`` bytes with ``in`` padded to a
multiple of 128; byte j of an output's four holds input j of a block of 8 in its low half and input j + 4 in its high
one, each as q + 8 with q in -8 … 7. Scales: float16 ``[ceil(out / 16), in / 128, 16]``. W = q * scale.
"""

from __future__ import annotations

import numpy as np
import paddle

from . import backend
from .low_bit import GROUP, IntegerFormat, blocks, check_matrix, has_packing_kernel, in_blocks, scale_tiles

FORMAT = IntegerFormat("w4", inputs_per_line=8, least=-8, most=7, zero=8, scale_dtype="float16")
pack_w4, dequantize_w4 = FORMAT.pack, FORMAT.dequantize

#: What the largest magnitude of a group is multiplied with before it becomes 7 times the scale.
CLIPPING = tuple(1 - 0.05 * step for step in range(9))


def linear_w4(
    x: paddle.Tensor, weight: paddle.Tensor, scales: paddle.Tensor, bias: paddle.Tensor | None, out_features: int
) -> paddle.Tensor:
    """``x W + bias``, with gradients to ``x`` only.

    The CPU kernel rounds x to 8 bits in groups of 128 inputs, symmetric, with the scale max |x| / 127: an error of at
    most ``max |x of the group| / 254`` per input. A row with NaN or Inf gives NaN.

    Args:
        x: ``[..., in_features]``; float32 on the CPU's kernel.
        weight: uint8 tiles.
        scales: float16.
        bias: ``[out_features]`` in the dtype of ``x``, or None.
        out_features: number of outputs without padding.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    return FORMAT.linear(x, weight, scales, bias, out_features)


def quantize_w4(w: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Round float32 ``w`` ``[in_features, out_features]``, on the CPU, to tiles and scales.

    Round to nearest; the scale of a group of 128 inputs is that of ``CLIPPING`` times its largest magnitude over 7, as
    float16, whose squared error is least. A group with NaN or Inf gets the scale NaN.

    Raises:
        OperatorError: w does not fit.
    """
    check_matrix("linear_w4", "w", w, paddle.float32)
    in_features, out_features = w.shape
    if has_packing_kernel(w):
        packed, factors = backend.run("paddlemix_quantize_w4", w, blocks(in_features, GROUP))
        return packed, factors
    grouped = in_blocks(w.numpy(), GROUP)  # [groups, 128, out]
    largest = np.abs(grouped).max(axis=1, keepdims=True, initial=0)
    finite = np.isfinite(largest)
    grouped, largest = np.where(finite, grouped, np.float32(0)), np.where(finite, largest, np.float32(0))
    least = np.full(largest.shape, np.inf, np.float32)
    best = np.zeros(largest.shape, np.float16)
    for clipping in CLIPPING:
        scale = np.minimum(largest * np.float32(clipping / 7), np.float32(65504)).astype(np.float16)
        error = np.square(grouped - _rounded(grouped, scale) * scale.astype(np.float32)).sum(axis=1, keepdims=True)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    q = _rounded(grouped, best).astype(np.int8).reshape(-1, out_features)[:in_features]
    return FORMAT.pack_integers(q), scale_tiles(np.where(finite, best, np.float16("nan"))[:, 0])


def _rounded(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Integers -8 … 7 as float32; 0 where the scale is 0."""
    scale = scale.astype(np.float32)
    with np.errstate(divide="ignore"):
        factor = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
    return np.rint(np.clip(values * factor, np.float32(-8), np.float32(7)))
