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
from .checks import check_features, check_floating, check_optional, check_tensors, last_axis
from .low_bit import (
    GROUP,
    TILE,
    apply_weight,
    blocks,
    check_matrix,
    check_packed,
    check_sizes,
    check_values,
    has_packing_kernel,
    in_blocks,
)


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
    in_features = last_axis("linear_w8", "x", x)
    if backend.use_kernel("linear_w8", x):
        return backend.run("paddlemix_linear_w8", x, weight, scales, bias, in_features, out_features)[0]
    check_floating("linear_w8", "x", x)
    check_tensors("linear_w8", weight=weight, scales=scales)
    check_optional("linear_w8", bias=bias)
    check_features("linear_w8", x, out_features, bias=bias)
    return linear_w8_reference(x, weight, scales, bias, out_features)


def linear_w8_reference(
    x: paddle.Tensor, weight: paddle.Tensor, scales: paddle.Tensor, bias: paddle.Tensor | None, out_features: int
) -> paddle.Tensor:
    """The same in plain Paddle; activations are not rounded."""
    _check(weight, scales, x.shape[-1], out_features)
    return apply_weight(x, lambda: _unpacked(weight, scales, x.shape[-1], out_features), bias)


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
    grouped = in_blocks(w.numpy(), GROUP)
    grouped = grouped.reshape(groups, -1, out_features)
    largest = np.abs(grouped).max(axis=1, keepdims=True, initial=0)
    finite = np.isfinite(largest)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.float32(127) / largest
        usable = np.isfinite(factor)
        q = np.rint(grouped * np.where(usable & finite, factor, np.float32(0)))
    scale = np.where(usable, largest / np.float32(127), np.float32(0))
    q = np.where(finite, q, 0).astype(np.int8).reshape(-1, out_features)[:in_features]
    padded = np.zeros((groups, blocks(out_features, TILE) * TILE), np.float32)
    padded[:, :out_features] = np.where(finite, scale, np.float32("nan"))[:, 0]
    scales = np.ascontiguousarray(padded.reshape(groups, -1, TILE).transpose(1, 0, 2))
    return _packed(q), paddle.to_tensor(scales, place=paddle.CPUPlace())


def pack_w8(q: paddle.Tensor) -> paddle.Tensor:
    """Tiles of int8 ``q`` ``[in_features, out_features]`` in -127 … 127, on the CPU.

    Raises:
        OperatorError: shape, dtype or values do not fit.
    """
    check_matrix("linear_w8", "q", q, paddle.int8)
    check_values("linear_w8", "q", q, -127, 127)
    if has_packing_kernel(q):
        return backend.run("paddlemix_pack_w8", q)[0]
    return _packed(q.numpy())


def dequantize_w8(weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    """The float32 W ``[in_features, out_features]`` that tiles and scales stand for."""
    check_tensors("linear_w8", weight=weight, scales=scales)
    if has_packing_kernel(weight):
        return backend.run("paddlemix_dequantize_w8", weight, scales, in_features, out_features)[0]
    _check(weight, scales, in_features, out_features)
    return _unpacked(weight, scales, in_features, out_features)


def _check(weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> None:
    check_sizes("linear_w8", in_features, out_features)
    tiles, groups = blocks(out_features, TILE), blocks(in_features, GROUP)
    allowed = [[tiles, groups, TILE], [tiles, 1, TILE]]
    check_packed("linear_w8", weight, [tiles, groups * 32, TILE, 4], scales, allowed, paddle.float32)


def _packed(q: np.ndarray) -> paddle.Tensor:
    in_features, out_features = q.shape
    padded = np.zeros((blocks(in_features, GROUP) * GROUP, blocks(out_features, TILE) * TILE), np.int8)
    padded[:in_features, :out_features] = q
    lines = (padded.view(np.uint8) ^ 128).reshape(-1, 4, padded.shape[1] // TILE, TILE)
    return paddle.to_tensor(np.ascontiguousarray(lines.transpose(2, 0, 3, 1)), place=paddle.CPUPlace())


def _unpacked(weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    q = weight.astype("float32") - 128
    q = q.transpose([1, 3, 0, 2]).reshape([scales.shape[1], -1, weight.shape[0] * TILE])  # [groups, inputs, out]
    by_group = scales.transpose([1, 0, 2]).reshape([-1, 1, weight.shape[0] * TILE])
    return (q * by_group).reshape([-1, weight.shape[0] * TILE])[:in_features, :out_features]
