"""Linear layers with 16-bit weights and float32 activations.

Paddle itself has no 16-bit matrix product on the CPU.

A weight ``W [in_features, out_features]`` lies in tiles of 16 outputs, ``[tiles, padded_in / 2, 16, 2]``: two inputs by
16 outputs are the 64 bytes that one instruction takes. ``padded_in`` is ``in_features`` up to a multiple of 32; what is
padded is zero. The dtype of the tensor, bfloat16 or float16, says what its bits are.
"""

from __future__ import annotations

import paddle

from ..errors import OperatorError
from . import backend
from .checks import check_features, check_floating, check_optional, check_tensors, last_axis
from .low_bit import apply_weight, check_sizes, has_packing_kernel

TILE = 16  # outputs
PADDING = 32  # inputs
_DTYPES = {"bfloat16": paddle.bfloat16, "float16": paddle.float16}


def linear_w16(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None, out_features: int) -> paddle.Tensor:
    """Return ``x W + bias``; the gradient goes to ``x`` alone.

    The CPU kernel rounds x to bfloat16 where there are more than 8 rows, the weight is bfloat16 and the processor
    multiplies bfloat16, unless :func:`.backend.set_matmul_precision` asks for float32; sums are float32.

    Args:
        x: ``[..., in_features]``; float32 on the CPU's kernel, float32, float16 or bfloat16 on CUDA.
        weight: ``[tiles, padded_in / 2, 16, 2]`` of bfloat16 or float16, from :func:`pack_w16`.
        bias: ``[out_features]`` of the dtype of ``x``.
        out_features: number of outputs without padding.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    in_features = last_axis("linear_w16", "x", x)
    if backend.use_kernel("linear_w16", x):
        return backend.run("paddlemix_linear_w16", x, weight, bias, in_features, out_features)[0]
    check_floating("linear_w16", "x", x)
    check_tensors("linear_w16", weight=weight)
    check_optional("linear_w16", bias=bias)
    check_features("linear_w16", x, out_features, bias=bias)
    return linear_w16_reference(x, weight, bias, out_features)


def linear_w16_reference(
    x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None, out_features: int
) -> paddle.Tensor:
    """The same in plain Paddle."""
    _check(weight, x.shape[-1], out_features)
    return apply_weight(x, lambda: _unpacked(weight, x.shape[-1], out_features), bias)


def packed_shape_w16(in_features: int, out_features: int) -> list[int]:
    """Shape of a packed weight."""
    return [-(-out_features // TILE), -(-in_features // PADDING) * PADDING // 2, TILE, 2]


@paddle.no_grad()
def pack_w16(w: paddle.Tensor, dtype: str) -> paddle.Tensor:
    """Round a weight to 16 bits (to nearest, ties to even) and put it in tiles.

    Args:
        w: ``[in_features, out_features]``, on the CPU; float32, or already bfloat16 or float16.
        dtype: ``"bfloat16"`` or ``"float16"``.

    Returns:
        ``[tiles, padded_in / 2, 16, 2]`` of ``dtype``.

    Raises:
        OperatorError: ``w`` is no such matrix, or ``dtype`` is another.
    """
    if dtype not in _DTYPES:
        raise OperatorError(f"linear_w16: dtype must be bfloat16 or float16, got {dtype!r}")
    check_tensors("linear_w16", w=w)
    if w.ndim != 2 or 0 in w.shape or w.dtype not in (paddle.float32, paddle.bfloat16, paddle.float16):
        raise OperatorError(
            "linear_w16: w must be float32, bfloat16 or float16 of shape [in_features, out_features], "
            f"got {w.dtype} of shape {w.shape}"
        )
    if has_packing_kernel(w) and w.place.is_cpu_place():
        return backend.run("paddlemix_pack_w16", w.astype("float32"), dtype)[0]
    in_features, out_features = w.shape
    tiles, pairs, _, _ = packed_shape_w16(in_features, out_features)
    padded = paddle.zeros([2 * pairs, tiles * TILE], dtype=_DTYPES[dtype])
    padded[:in_features, :out_features] = w.astype(_DTYPES[dtype])
    return padded.reshape([pairs, 2, tiles, TILE]).transpose([2, 0, 3, 1])


def dequantize_w16(weight: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    """The inverse of :func:`pack_w16`: ``W [in_features, out_features]`` in float32.

    Raises:
        OperatorError: the weight is not one of these sizes, or neither bfloat16 nor float16.
    """
    check_tensors("linear_w16", weight=weight)
    if has_packing_kernel(weight):
        return backend.run("paddlemix_dequantize_w16", weight, in_features, out_features)[0]
    _check(weight, in_features, out_features)
    return _unpacked(weight, in_features, out_features)


def _check(weight: paddle.Tensor, in_features: int, out_features: int) -> None:
    check_sizes("linear_w16", in_features, out_features)
    if weight.dtype not in _DTYPES.values():
        raise OperatorError(f"linear_w16: weight must be bfloat16 or float16, got {weight.dtype}")
    shape = packed_shape_w16(in_features, out_features)
    if weight.shape != shape:
        raise OperatorError(
            f"linear_w16: weight has shape {weight.shape}, expected {shape} for {in_features} inputs and "
            f"{out_features} outputs"
        )


@paddle.no_grad()
def _unpacked(weight: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    tiles, pairs, _, _ = weight.shape
    w = weight.astype("float32").transpose([1, 3, 0, 2]).reshape([2 * pairs, tiles * TILE])
    return w[:in_features, :out_features]
