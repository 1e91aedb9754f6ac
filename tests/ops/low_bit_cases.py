"""What the tests of the linear layers with weights of 4 and 8 bits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle

from paddlemix import ops
from paddlemix.ops.linear_nf4 import dequantize_nf4, pack_nf4, quantize_nf4, quantize_scales
from paddlemix.ops.linear_w4 import dequantize_w4, pack_w4, quantize_w4
from paddlemix.ops.linear_w8 import dequantize_w8, pack_w8, quantize_w8

GROUP = 128
# rows: one, few, those where another kernel body begins, several blocks of 16, more than one pass over the weights
ROWS = [1, 2, 5, 8, 15, 16, 17, 123, 288]
# in, out: whole and broken groups, tiles and panels
SHAPES = [(104, 40), (984, 100), (1664, 48), (4096, 33)]


def make(rows, in_features, out_features, seed=0):
    """x, w and bias as float32 arrays; some inputs of x are far larger than the rest."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, in_features)).astype(np.float32)
    x[:, ::97] *= 8
    w = (generator.normal(size=(in_features, out_features)) * 0.05).astype(np.float32)
    return x, w, generator.normal(size=out_features).astype(np.float32)


def rounded_activations(x):
    """x as the kernels round it, in float64: 8 bits in groups of 128 inputs."""
    rows, inputs = x.shape
    padded = np.zeros((rows, -(-inputs // GROUP) * GROUP), np.float32)
    padded[:, :inputs] = x
    grouped = padded.reshape(rows, -1, GROUP)
    largest = np.abs(grouped).max(-1, keepdims=True)
    factor = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 4e-37)
    rounded = np.rint(grouped * factor).astype(np.float64) * (largest / np.float32(127))
    return rounded.reshape(rows, -1)[:, :inputs]


def largest_rounding(x, w):
    """The most by which rounding the activations can move an output: half a step per input."""
    rows, inputs = x.shape
    steps = np.concatenate(
        [np.abs(x[:, i : i + GROUP]).max(1, keepdims=True).repeat(x[:, i : i + GROUP].shape[1], 1) / 127
         for i in range(0, inputs, GROUP)], axis=1)  # fmt: skip
    return (steps.astype(np.float64) / 2) @ np.abs(w.astype(np.float64))


@dataclass(frozen=True)
class Format:
    """The functions of one format, and what is true of it alone.

    Attributes:
        multiplied: arrays and sizes -> the float64 weight that the kernel multiplies, where it is not the one that the
            arrays stand for.
    """

    operator: str
    linear: Callable
    quantize: Callable
    pack: Callable
    dequantize: Callable
    values: tuple[int, int]
    lines_per_group: int
    scale_dtype: str
    multiplied: Callable | None = None

    def packed(self, w):
        """Tiles and scales of a float32 array, and the array they stand for."""
        arrays = self.quantize(paddle.to_tensor(w))
        return arrays, self.dequantize(*arrays, *w.shape).numpy()

    def packed_for_kernel(self, w):
        """Tiles and scales of a float32 array, and the array that the kernel multiplies, float64."""
        arrays, meant = self.packed(w)
        return arrays, (self.multiplied(*arrays, *w.shape) if self.multiplied else meant.astype(np.float64))


def _quantize_w8_by_group(w):
    return quantize_w8(w, -(-w.shape[0] // GROUP))


def quantize_nf4_twice(w):
    """nf4 with its scales quantized: all arrays of the linear layer."""
    tiles, absmax = quantize_nf4(w)
    scales, nested = quantize_scales(absmax.numpy(), *w.shape)
    return tiles, paddle.to_tensor(scales), paddle.to_tensor(nested)


def nf4_weight(levels, tiles, scales, nested, in_features, out_features):
    """What codes of 16 levels stand for, read by the letter of the layout, float64."""
    tiles, codes, nested = tiles.numpy(), scales.numpy().astype(int), nested.numpy()
    w = np.empty((in_features, out_features))
    blocks = -(-in_features // 64)
    for i in range(in_features):
        byte = tiles[:, i // 8, :, i % 4].reshape(-1)[:out_features]
        code = byte >> 4 if i % 8 >= 4 else byte & 15
        factor = nested[257 + (np.arange(out_features) * blocks + i // 64) // 256]
        w[i] = levels[code] * (nested[1 + codes[:, i // 64].reshape(-1)[:out_features]] * factor + nested[0])
    return w


def _nf4_multiplied(*arrays):
    levels = np.array([-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112]) / 112
    return nf4_weight(levels, *arrays)


_W8 = ("linear_w8", ops.linear_w8)
_W8_REST = (pack_w8, dequantize_w8, (-127, 127), 32, "float32")
FORMATS = {
    "w4": Format("linear_w4", ops.linear_w4, quantize_w4, pack_w4, dequantize_w4, (-8, 7), 16, "float16"),
    "w8": Format(*_W8, quantize_w8, *_W8_REST),
    "nf4": Format(
        "linear_nf4",
        ops.linear_nf4,
        quantize_nf4_twice,
        pack_nf4,
        dequantize_nf4,
        (0, 15),
        16,
        "uint8",
        _nf4_multiplied,
    ),
    "w8 by group": Format(*_W8, _quantize_w8_by_group, *_W8_REST),
}
