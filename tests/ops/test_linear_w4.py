"""The int4 format: its rounding and its layout; test_low_bit.py has what holds of every format."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.ops.linear_w4 import CLIPPING, dequantize_w4, pack_w4, quantize_w4
from tests.ops.low_bit_cases import make


def packed(w):
    """Tiles and scales of a float32 array, and the array they stand for."""
    weight, scales = quantize_w4(paddle.to_tensor(w))
    return weight, scales, dequantize_w4(weight, scales, *w.shape).numpy()


def test_scales_come_from_the_documented_grid_and_halve_no_step(any_backend):
    _, w, _ = make(1, 300, 40)
    weight, scales, meant = packed(w)
    assert scales.dtype == paddle.float16 and scales.shape == [3, 3, 16]
    for group in range(3):
        rows = slice(group * 128, (group + 1) * 128)
        chosen = scales.numpy().transpose(1, 0, 2).reshape(3, -1)[group, :40].astype(np.float64)
        grid = np.abs(w[rows]).max(0)[:, None] / 7 * np.array(CLIPPING)
        assert (np.abs(grid / chosen[:, None] - 1).min(1) < 1e-3).all()
        unclipped = np.abs(w[rows]) <= 7 * chosen
        assert (np.abs(meant - w)[rows] <= 0.5001 * chosen)[unclipped].all()


def test_clipping_lowers_the_error(any_backend):
    _, w, _ = make(1, 1024, 64)
    _, _, meant = packed(w)
    scale = np.abs(w.reshape(8, 128, 64)).max(1, keepdims=True) / 7
    plain = (np.rint(w.reshape(8, 128, 64) / scale) * scale).reshape(1024, 64)
    assert np.square(meant - w).mean() < 0.9 * np.square(plain - w).mean()


def test_kernel_and_reference_quantize_alike(fused):
    _, w, _ = make(1, 1000, 100)
    w[:, 7] = 0
    w[5, 3], w[6, 4] = np.nan, np.inf
    w[:, 9] *= 1e-5
    kernel = dequantize_w4(*quantize_w4(paddle.to_tensor(w)), 1000, 100).numpy()
    with ops.using("reference"):
        reference = dequantize_w4(*quantize_w4(paddle.to_tensor(w)), 1000, 100).numpy()
    # clipping factors whose errors agree to the last bits may be chosen differently
    assert (np.isnan(kernel) == np.isnan(reference)).all() and np.isnan(kernel[:128, 3]).all()
    assert (np.isclose(kernel, reference, rtol=1e-6, atol=0, equal_nan=True)).mean() > 0.99
    finite = np.isfinite(w).all(0)
    errors = [np.square(meant - w)[:, finite].sum() for meant in (kernel, reference)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_weights_beyond_half_precision_are_clipped_to_it(any_backend):
    w = np.full((128, 16), 1e6, np.float32)
    meant = packed(w)[2]
    np.testing.assert_array_equal(meant, np.full_like(w, 7 * 65504))


def test_tiles_lie_as_documented(any_backend):
    q = np.zeros((256, 32), np.int8)
    q[128 + 13, 17] = 3
    tiles = pack_w4(paddle.to_tensor(q)).numpy()
    changed = np.argwhere(tiles != 0x88)
    np.testing.assert_array_equal(changed, [[1, 17, 1, 1]])
    assert tiles[1, 17, 1, 1] == 0xB8
