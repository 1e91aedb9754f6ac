"""The nf4 format: its rounding, its scales and its layout; test_low_bit.py has what holds of every format."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops.linear_nf4 import LEVELS, dequantize_nf4, dynamic_values, pack_nf4, quantize_nf4, quantize_scales
from tests.ops.low_bit_cases import make, nf4_weight, quantize_nf4_twice


def test_quantizing_takes_the_nearest_level_of_each_block(any_backend):
    _, w, _ = make(1, 300, 40)
    tiles, absmax = quantize_nf4(paddle.to_tensor(w))
    assert absmax.shape == [3, 6, 16]
    padded = np.zeros((320, 40), np.float32)
    padded[:300] = w
    largest = np.abs(padded.reshape(5, 64, 40)).max(1)
    np.testing.assert_array_equal(absmax.numpy().transpose(1, 0, 2).reshape(6, 48)[:5, :40], largest)
    scales, nested = map(paddle.to_tensor, quantize_scales(absmax.numpy(), 300, 40))
    codes = nf4_weight(np.arange(16), tiles, scales.zero_(), paddle.ones_like(nested), 300, 40) / 2
    relative = w / largest.repeat(64, 0)[:300]
    nearest = np.abs(relative[..., None] - LEVELS).min(-1)
    np.testing.assert_allclose(np.abs(relative - LEVELS[codes.astype(int)]), nearest, rtol=0, atol=1e-6)


def test_kernel_and_reference_quantize_alike(fused):
    _, w, _ = make(1, 1000, 100)
    w[:, 7] = 0
    w[5, 3], w[6, 4] = np.nan, np.inf
    w[:, 9] *= 1e-38
    kernel = quantize_nf4(paddle.to_tensor(w))
    with ops.using("reference"):
        reference = quantize_nf4(paddle.to_tensor(w))
    np.testing.assert_array_equal(kernel[1].numpy(), reference[1].numpy())
    same = (kernel[0].numpy() == reference[0].numpy())[:6]  # what stands behind the last output differs
    assert same.mean() > 0.999  # values that lie between two levels to the last bit
    assert np.isnan(kernel[1].numpy()[0, 0, 3]) and np.isnan(kernel[1].numpy()[0, 0, 4])


def test_kernel_and_reference_read_the_same_weights(fused):
    _, w, _ = make(1, 984, 100)
    arrays = quantize_nf4_twice(paddle.to_tensor(w))
    kernel = dequantize_nf4(*arrays, 984, 100).numpy()
    with ops.using("reference"):
        np.testing.assert_array_equal(dequantize_nf4(*arrays, 984, 100).numpy(), kernel)
    np.testing.assert_allclose(kernel, nf4_weight(LEVELS, *arrays, 984, 100), rtol=1e-6)


def test_quantized_scales_are_within_half_a_step_of_the_map(any_backend):
    _, w, _ = make(1, 1024, 64)
    absmax = quantize_nf4(paddle.to_tensor(w))[1].numpy()
    scales, nested = quantize_scales(absmax, 1024, 64)
    assert scales.dtype == np.uint8 and scales.shape == absmax.shape and len(nested) % 16 == 0
    values = nested[1 + scales.astype(int)]
    factors = nested[257 + (np.arange(64).reshape(4, 1, 16) * 16 + np.arange(16).reshape(1, 16, 1)) // 256]
    step = np.diff(dynamic_values()).max()
    assert (np.abs(values * factors + nested[0] - absmax) <= 0.5001 * step * factors).all()
    assert nested[0] == pytest.approx(absmax.mean(), rel=1e-6)


def test_nf4_is_nearer_than_int4_rounded_to_the_largest_magnitude(any_backend):
    _, w, _ = make(1, 1024, 64)
    meant = dequantize_nf4(*quantize_nf4_twice(paddle.to_tensor(w)), 1024, 64).numpy()
    scale = np.abs(w.reshape(8, 128, 64)).max(1, keepdims=True) / 7
    plain = (np.rint(w.reshape(8, 128, 64) / scale) * scale).reshape(1024, 64)
    assert np.square(meant - w).mean() < 0.7 * np.square(plain - w).mean()


def test_tiles_lie_as_documented(any_backend):
    codes = np.full((256, 32), 8, np.int8)
    codes[128 + 13, 17] = 3
    tiles = pack_nf4(paddle.to_tensor(codes)).numpy()
    np.testing.assert_array_equal(np.argwhere(tiles != 0x88), [[1, 17, 1, 1]])
    assert tiles[1, 17, 1, 1] == 0x38


def test_the_map_of_scales_has_256_ascending_values():
    values = dynamic_values()
    assert len(values) == 256 and (np.diff(values) > 0).all() and values[-1] == 1 and 0 in values


def test_scales_of_scales_of_another_size_are_refused(any_backend):
    weight, scales, nested = quantize_nf4_twice(paddle.ones([300, 40]))
    with pytest.raises(OperatorError, match="linear_nf4: nested has shape"):
        ops.linear_nf4(paddle.zeros([2, 300]), weight, scales, nested[:-1], None, 40)
