"""Linear layer over weights of 4 bits: symmetric, one float16 scale per output and 128 inputs, packed into tiles.

Tiles (see ``external_ops/cpu/paddlemix_cpu.h``): ``[ceil(out / 16), in / 8, 16, 4]`` bytes with ``in`` padded to a
multiple of 128; byte j of an output's four holds input j of a block of 8 in its low half and input j + 4 in its high
one, each as q + 8 with q in -8 … 7. Scales: float16 ``[ceil(out / 16), in / 128, 16]``. W = q * scale.
"""

from __future__ import annotations

import numpy as np
import paddle

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
    in_features = last_axis("linear_w4", "x", x)
    if backend.use_kernel("linear_w4", x):
        return backend.run("paddlemix_linear_w4", x, weight, scales, bias, in_features, out_features)[0]
    check_floating("linear_w4", "x", x)
    check_tensors("linear_w4", weight=weight, scales=scales)
    check_optional("linear_w4", bias=bias)
    check_features("linear_w4", x, out_features, bias=bias)
    return linear_w4_reference(x, weight, scales, bias, out_features)


def linear_w4_reference(
    x: paddle.Tensor, weight: paddle.Tensor, scales: paddle.Tensor, bias: paddle.Tensor | None, out_features: int
) -> paddle.Tensor:
    """The same in plain Paddle; activations are not rounded."""
    _check(weight, scales, x.shape[-1], out_features)
    return apply_weight(x, lambda: _unpacked(weight, scales, x.shape[-1], out_features), bias)


def quantize_w4(w: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Round float32 ``w`` ``[in_features, out_features]``, on the CPU, to tiles and scales.

    Round to nearest; the scale of a group of 128 inputs is that of ``CLIPPING`` times its largest magnitude over 7, as
    float16, whose squared error is least. A group with NaN or Inf gets the scale NaN.
    """
    check_matrix("linear_w4", "w", w, paddle.float32)
    in_features, out_features = w.shape
    groups = blocks(in_features, GROUP)
    if has_packing_kernel(w):
        packed, factors = backend.run("paddlemix_quantize_w4", w, groups)
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
    padded = np.zeros((groups, blocks(out_features, TILE) * TILE), np.float16)
    padded[:, :out_features] = np.where(finite, best, np.float16("nan"))[:, 0]
    scales = np.ascontiguousarray(padded.reshape(groups, -1, TILE).transpose(1, 0, 2))
    return _packed(q), paddle.to_tensor(scales, place=paddle.CPUPlace())


def pack_w4(q: paddle.Tensor) -> paddle.Tensor:
    """Tiles of int8 ``q`` ``[in_features, out_features]`` in -8 … 7, on the CPU.

    Raises:
        OperatorError: shape, dtype or values do not fit.
    """
    check_matrix("linear_w4", "q", q, paddle.int8)
    check_values("linear_w4", "q", q, -8, 7)
    if has_packing_kernel(q):
        return backend.run("paddlemix_pack_w4", q)[0]
    return _packed(q.numpy())


def dequantize_w4(weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    """The float32 W ``[in_features, out_features]`` that tiles and scales stand for."""
    check_tensors("linear_w4", weight=weight, scales=scales)
    if has_packing_kernel(weight):
        return backend.run("paddlemix_dequantize_w4", weight, scales, in_features, out_features)[0]
    _check(weight, scales, in_features, out_features)
    return _unpacked(weight, scales, in_features, out_features)


def _check(weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> None:
    check_sizes("linear_w4", in_features, out_features)
    tiles, groups = blocks(out_features, TILE), blocks(in_features, GROUP)
    check_packed("linear_w4", weight, [tiles, groups * 16, TILE, 4], scales, [[tiles, groups, TILE]], paddle.float16)


def _rounded(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Integers -8 … 7 as float32; 0 where the scale is 0."""
    scale = scale.astype(np.float32)
    with np.errstate(divide="ignore"):
        factor = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
    return np.rint(np.clip(values * factor, np.float32(-8), np.float32(7)))


def _packed(q: np.ndarray) -> paddle.Tensor:
    in_features, out_features = q.shape
    padded = np.zeros((blocks(in_features, GROUP) * GROUP, blocks(out_features, TILE) * TILE), np.int8)
    padded[:in_features, :out_features] = q
    halves = (padded + 8).astype(np.uint8).reshape(-1, 2, 4, padded.shape[1] // TILE, TILE)
    lines = halves[:, 0] | halves[:, 1] << 4  # [in / 8, 4, tiles, 16]
    return paddle.to_tensor(np.ascontiguousarray(lines.transpose(2, 0, 3, 1)), place=paddle.CPUPlace())


def _unpacked(weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    lines = weight.astype("int32")  # [tiles, in / 8, 16, 4]
    halves = paddle.stack([lines % 16, lines // 16], axis=2) - 8
    q = halves.transpose([1, 2, 4, 0, 3]).reshape([-1, GROUP, weight.shape[0] * TILE])  # [groups, 128, out]
    by_group = scales.astype("float32").transpose([1, 0, 2]).reshape([-1, 1, weight.shape[0] * TILE])
    return (q.astype("float32") * by_group).reshape([-1, weight.shape[0] * TILE])[:in_features, :out_features]
