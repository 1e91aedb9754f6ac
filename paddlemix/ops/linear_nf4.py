"""Linear layer over weights in nf4 (Dettmers et al., 2023): 4-bit codes of 16 levels, with double-quantized scales.

A weight is ``LEVELS[code] * scale``, with a scale per output and 64 inputs. The scales are quantized in turn:
``scale = values[code] * factors[(output * ceil(in / 64) + block) // 256] + offset``. This is what bitsandbytes holds
for ``blocksize=64`` and ``compress_statistics=True``.

``weight``: uint8 tiles as those of :mod:`.linear_w4`, ``[ceil(out / 16), in / 8, 16, 4]`` with ``in`` padded to a
multiple of 128. ``scales``: uint8 ``[ceil(out / 16), 2 * in / 128, 16]``. ``nested``: float32, the offset, the 256
values and the factors (of the outputs of whole tiles), padded to a multiple of 16.
"""

from __future__ import annotations

import numpy as np
import paddle

from ..errors import OperatorError
from . import backend
from .checks import check_features, check_floating, check_optional, check_tensors, dtype_name, last_axis
from .linear_w4 import FORMAT as W4
from .low_bit import (
    GROUP,
    TILE,
    apply_weight,
    blocks,
    check_matrix,
    check_sizes,
    has_packing_kernel,
    in_blocks,
    scale_tiles,
)

BLOCK = 64  # inputs that share a scale
NESTED_BLOCK = 256  # scales that share a factor
_HEADER = 257  # offset and values
_PADDING = 16  # of `nested`, so that mapped files are aligned
_OPERATOR = "linear_nf4"

#: Quantiles of the normal distribution with 0 among them, as published.
LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def linear_nf4(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    scales: paddle.Tensor,
    nested: paddle.Tensor,
    bias: paddle.Tensor | None,
    out_features: int,
) -> paddle.Tensor:
    """``x W + bias``, with gradients to ``x`` only.

    The CPU kernel rounds x to 8 bits in groups of 128 inputs, as :func:`.linear_w4.linear_w4` does, and the levels to
    multiples of 1 / 112: by at most 0.004 of a block's largest weight. There is no CUDA kernel, plain Paddle
    runs there.

    Args:
        x: ``[..., in_features]``; float32 on the CPU's kernel.
        weight: uint8 tiles.
        scales: uint8 codes.
        nested: float32.
        bias: ``[out_features]`` in the dtype of ``x``, or None.
        out_features: number of outputs without padding.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    in_features = last_axis(_OPERATOR, "x", x)
    if backend.use_kernel(_OPERATOR, x):
        return backend.run("paddlemix_linear_nf4", x, weight, scales, nested, bias, in_features, out_features)[0]
    check_floating(_OPERATOR, "x", x)
    check_tensors(_OPERATOR, weight=weight, scales=scales, nested=nested)
    check_optional(_OPERATOR, bias=bias)
    check_features(_OPERATOR, x, out_features, bias=bias)
    return linear_nf4_reference(x, weight, scales, nested, bias, out_features)


def linear_nf4_reference(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    scales: paddle.Tensor,
    nested: paddle.Tensor,
    bias: paddle.Tensor | None,
    out_features: int,
) -> paddle.Tensor:
    """The same in plain Paddle; neither activations nor levels are rounded."""
    in_features = x.shape[-1]
    _check(weight, scales, nested, in_features, out_features)

    def unpack() -> paddle.Tensor:
        return unpack_nf4(weight, read_scales(scales, nested, in_features), in_features, out_features)

    return apply_weight(x, unpack, bias)


def quantize_nf4(w: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Round float32 ``w`` ``[in_features, out_features]``, on the CPU, to the nearest levels.

    Returns:
        The tiles, and the scales before their quantization (:func:`quantize_scales`), float32
        ``[ceil(out / 16), 2 * in / 128, 16]``: the largest magnitude of each output and 64 inputs. With NaN or infinity
        it is NaN.

    Raises:
        OperatorError: w does not fit.
    """
    check_matrix(_OPERATOR, "w", w, paddle.float32)
    in_features, out_features = w.shape
    if _has_kernel(w):
        tiles, absmax = backend.run("paddlemix_quantize_nf4", w)
        return tiles, absmax
    padded = in_blocks(w.numpy(), GROUP).reshape(-1, BLOCK, out_features)
    largest = np.abs(padded).max(axis=1, keepdims=True, initial=0)
    finite = np.isfinite(largest)
    with np.errstate(divide="ignore", over="ignore"):
        factor = np.where(finite & (largest >= np.float32(1 / 3.4e38)), np.float32(1) / largest, np.float32(0))
    values = np.where(finite, padded, np.float32(0)) * factor
    codes = np.searchsorted((LEVELS[:-1] + LEVELS[1:]) / 2, values)
    integers = (codes - 8).astype(np.int8).reshape(-1, out_features)
    return W4.pack_integers(integers), scale_tiles(np.where(finite, largest, np.float32("nan"))[:, 0])


def pack_nf4(codes: paddle.Tensor) -> paddle.Tensor:
    """Tiles of codes, int8 ``[in_features, out_features]`` in 0 … 15, on the CPU.

    Raises:
        OperatorError: shape, dtype or values do not fit.
    """
    check_matrix(_OPERATOR, "codes", codes, paddle.int8)
    return W4.pack(codes - 8)


def quantize_scales(absmax: np.ndarray, in_features: int, out_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantize scales, float32 ``[ceil(out / 16), 2 * in / 128, 16]``: less their mean, to 8 bits in blocks of 256.

    Returns:
        ``scales`` and ``nested`` of :func:`linear_nf4`.
    """
    count = blocks(in_features, BLOCK)
    flat = absmax[:, :count].transpose(0, 2, 1).reshape(-1, count)[:out_features].reshape(-1)
    offset = float(np.float32(flat.mean(dtype=np.float64)))
    shifted = np.zeros(blocks(flat.size, NESTED_BLOCK) * NESTED_BLOCK, np.float32)
    shifted[: flat.size] = flat - np.float32(offset)
    factors = np.abs(shifted.reshape(-1, NESTED_BLOCK)).max(axis=1)
    values = dynamic_values()
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = shifted.reshape(-1, NESTED_BLOCK) / factors[:, None]
    relative = np.where(factors[:, None] > 0, relative, np.float32(0))
    codes = np.searchsorted((values[:-1] + values[1:]) / 2, relative).astype(np.uint8).reshape(-1)[: flat.size]
    return lay_out_scales(codes, factors, values, offset, in_features, out_features)


def lay_out_scales(
    codes: np.ndarray, factors: np.ndarray, values: np.ndarray, offset: float, in_features: int, out_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """``scales`` and ``nested`` of :func:`linear_nf4` from quantized scales as bitsandbytes holds them.

    Args:
        codes: uint8 ``[out_features * ceil(in_features / 64)]``, those of one output after the other.
        factors: float32, one per 256 codes.
        values: float32 ``[256]``, of each code.
        offset: added to all scales.
    """
    count, tiles = blocks(in_features, BLOCK), blocks(out_features, TILE)
    padded = np.zeros((tiles * TILE, 2 * blocks(in_features, GROUP)), np.uint8)
    padded[:out_features, :count] = codes.reshape(out_features, count)
    scales = np.ascontiguousarray(padded.reshape(tiles, TILE, -1).transpose(0, 2, 1))
    nested = np.zeros(nested_size(in_features, out_features), np.float32)
    nested[0], nested[1:_HEADER] = offset, values
    nested[_HEADER : _HEADER + len(factors)] = factors
    return scales, nested


def nested_size(in_features: int, out_features: int) -> int:
    """Elements of ``nested``."""
    factors = blocks(blocks(out_features, TILE) * TILE * blocks(in_features, BLOCK), NESTED_BLOCK)
    return blocks(_HEADER + factors, _PADDING) * _PADDING


def dynamic_values() -> np.ndarray:
    """The 256 values, ascending, that codes of 8 bits stand for: bitsandbytes' dynamic map of signed numbers.

    Those of a checkpoint come from its files and may differ in the last bit.
    """
    magnitudes: list[np.ndarray] = []
    for exponent in range(7):
        bounds = np.linspace(0.1, 1, 2**exponent + 1, dtype=np.float32)
        magnitudes.append((np.float32(10.0 ** (exponent - 6)) * ((bounds[:-1] + bounds[1:]) / 2)).astype(np.float32))
    positive = np.concatenate(magnitudes)
    return np.sort(np.concatenate([positive, -positive, np.array([0, 1], np.float32)]))


def read_scales(scales: paddle.Tensor, nested: paddle.Tensor, in_features: int) -> paddle.Tensor:
    """The scales that codes stand for, float32 ``[ceil(out / 16), 2 * in / 128, 16]``."""
    tiles, padded, _ = scales.shape
    count = blocks(in_features, BLOCK)
    output = paddle.arange(tiles * TILE).reshape([tiles, 1, TILE])
    block = paddle.clip(paddle.arange(padded), max=count - 1).reshape([1, padded, 1])
    factor = paddle.gather(nested, (_HEADER + (output * count + block) // NESTED_BLOCK).reshape([-1]))
    value = paddle.gather(nested, (1 + scales.astype("int64")).reshape([-1]))
    return (value * factor + nested[0]).reshape(scales.shape)


def unpack_nf4(weight: paddle.Tensor, absmax: paddle.Tensor, in_features: int, out_features: int) -> paddle.Tensor:
    """The float32 W ``[in_features, out_features]`` of tiles and of scales as :func:`read_scales` returns them."""
    outputs = weight.shape[0] * TILE
    lines = weight.astype("int32")  # [tiles, lines, 16, 4]
    codes = paddle.stack([lines % 16, lines // 16], axis=2).transpose([1, 2, 4, 0, 3])
    levels = paddle.gather(paddle.to_tensor(LEVELS), codes.reshape([-1])).reshape([-1, BLOCK, outputs])
    by_block = absmax.transpose([1, 0, 2]).reshape([-1, 1, outputs])
    return (levels * by_block).reshape([-1, outputs])[:in_features, :out_features]


def dequantize_nf4(
    weight: paddle.Tensor, scales: paddle.Tensor, nested: paddle.Tensor, in_features: int, out_features: int
) -> paddle.Tensor:
    """The float32 W ``[in_features, out_features]`` that the arrays stand for.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    check_tensors(_OPERATOR, weight=weight, scales=scales, nested=nested)
    if _has_kernel(weight):
        return backend.run("paddlemix_dequantize_nf4", weight, scales, nested, in_features, out_features)[0]
    _check(weight, scales, nested, in_features, out_features)
    return unpack_nf4(weight, read_scales(scales, nested, in_features), in_features, out_features)


def _has_kernel(tensor: paddle.Tensor) -> bool:
    """Whether the library quantizes and reads back a tensor of this device; one that is older does not."""
    on_cpu = tensor.place.is_cpu_place()
    return has_packing_kernel(tensor) and on_cpu and backend.why_not(_OPERATOR, "cpu") is None


def _check(
    weight: paddle.Tensor, scales: paddle.Tensor, nested: paddle.Tensor, in_features: int, out_features: int
) -> None:
    check_sizes(_OPERATOR, in_features, out_features)
    tiles, groups = blocks(out_features, TILE), blocks(in_features, GROUP)
    expected = {
        "weight": (weight, [tiles, groups * 16, TILE, 4], "uint8"),
        "scales": (scales, [tiles, 2 * groups, TILE], "uint8"),
        "nested": (nested, [nested_size(in_features, out_features)], "float32"),
    }
    for name, (tensor, shape, dtype) in expected.items():
        if tensor.shape != shape:
            raise OperatorError(f"{_OPERATOR}: {name} has shape {tensor.shape}, expected {shape}")
        if dtype_name(tensor.dtype) != dtype:
            raise OperatorError(f"{_OPERATOR}: {name} must be {dtype}{' tiles' if name == 'weight' else ''}")
