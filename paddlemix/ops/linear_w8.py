"""Linear layer over weights of 8 bits: symmetric, one float32 scale per output or per output and 128 inputs, in tiles.

Tiles (see ``external_ops/cpu/paddlemix_cpu.h``): ``[ceil(out / 16), in / 4, 16, 4]`` bytes with ``in`` padded to a
multiple of 128, each q + 128 with q in -127 … 127. Scales: float32 ``[ceil(out / 16), groups, 16]`` with groups = 1 or
in / 128. W = q * scale.
"""

from __future__ import annotations

import numpy as np
import paddle

from ..errors import OperatorError
from . import backend
from .low_bit import GROUP, IntegerFormat, blocks, check_matrix, has_packing_kernel, in_blocks, scale_tiles

FORMAT = IntegerFormat(
    "w8", inputs_per_line=4, least=-127, most=127, zero=128, scale_dtype="float32", output_scales=True
)
pack_w8, dequantize_w8 = FORMAT.pack, FORMAT.dequantize


def linear_w8(
    x: paddle.Tensor, weight: paddle.Tensor, scales: paddle.Tensor, bias: paddle.Tensor | None, out_features: int
) -> paddle.Tensor:
    """``x W + bias``, with gradients to ``x`` only.

    The CPU kernel rounds x to 8 bits in groups of 128 inputs, symmetric, with the scale max |x| / 127: an error of at
    most ``max |x of the group| / 254`` per input. A row with NaN or Inf gives NaN.

    Args:
        x: ``[..., in_features]``; float32 on the CPU's kernel.
        weight: uint8 tiles.
        scales: float32, of one group or of one per 128 inputs.
        bias: ``[out_features]`` in the dtype of ``x``, or None.
        out_features: number of outputs without padding.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    return FORMAT.linear(x, weight, scales, bias, out_features)


def quantize_w8(w: paddle.Tensor, groups: int = 1) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Round float32 ``w`` ``[in_features, out_features]``, on the CPU, to tiles and scales.

    Round to nearest with the scale max |w| / 127, over each output (``groups`` = 1) or each output's groups of 128
    inputs (``groups`` = ceil(in_features / 128)). NaN or Inf make their scale NaN.

    Raises:
        OperatorError: w or groups do not fit.
    """
    check_matrix("linear_w8", "w", w, paddle.float32)
    in_features, out_features = w.shape
    if groups not in (1, blocks(in_features, GROUP)):
        raise OperatorError(
            f"linear_w8: groups is {groups}, expected 1 (a scale per output) or one per 128 inputs, "
            f"{blocks(in_features, GROUP)}"
        )
    if has_packing_kernel(w):
        packed, factors = backend.run("paddlemix_quantize_w8", w, groups)
        return packed, factors
    grouped = in_blocks(w.numpy(), GROUP).reshape(groups, -1, out_features)
    largest = np.abs(grouped).max(axis=1, keepdims=True, initial=0)
    finite = np.isfinite(largest)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.float32(127) / largest
        usable = np.isfinite(factor)
        q = np.rint(grouped * np.where(usable & finite, factor, np.float32(0)))
    scale = np.where(usable, largest / np.float32(127), np.float32(0))
    q = np.where(finite, q, 0).astype(np.int8).reshape(-1, out_features)[:in_features]
    return FORMAT.pack_integers(q), scale_tiles(np.where(finite, scale, np.float32("nan"))[:, 0])
