"""The int8 format: its rounding and its layout; test_low_bit.py has what holds of every format."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops.linear_w8 import dequantize_w8, pack_w8, quantize_w8
from tests.ops.low_bit_cases import make


def packed(w, groups=1):
    """Tiles and scales of a float32 array, and the array they stand for."""
    weight, scales = quantize_w8(paddle.to_tensor(w), groups)
    return weight, scales, dequantize_w8(weight, scales, *w.shape).numpy()


def test_quantizing_rounds_to_the_nearest_of_255_steps(any_backend):
    _, w, _ = make(1, 300, 40)
    for groups in (1, 3):
        _, scales, meant = packed(w, groups)
        assert scales.shape == [3, groups, 16]
        largest = np.stack([np.abs(part).max(0) for part in ([w] if groups == 1 else [w[:128], w[128:256], w[256:]])])
        np.testing.assert_allclose(
            scales.numpy().transpose(1, 0, 2).reshape(groups, -1)[:, :40], largest / 127, rtol=1e-6
        )
        step = (largest / 127).repeat(300 if groups == 1 else 128, 0)[:300]
        assert (np.abs(meant - w) <= 0.5001 * step).all()


def test_kernel_and_reference_quantize_alike(fused):
    _, w, _ = make(1, 1000, 100)
    w[:, 7] = 0
    w[5, 3], w[6, 4] = np.nan, np.inf
    w[:, 9] *= 1e-38
    for groups in (1, 8):
        kernel = quantize_w8(paddle.to_tensor(w), groups)
        with ops.using("reference"):
            reference = quantize_w8(paddle.to_tensor(w), groups)
        for a, b in zip(kernel, reference):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_tiles_lie_as_documented(any_backend):
    q = np.zeros((256, 32), np.int8)
    q[128 + 13, 17] = 3
    tiles = pack_w8(paddle.to_tensor(q)).numpy()
    changed = np.argwhere(tiles != 128)
    np.testing.assert_array_equal(changed, [[1, 35, 1, 1]])
    assert tiles[1, 35, 1, 1] == 131


def test_other_numbers_of_groups_are_refused(any_backend):
    with pytest.raises(OperatorError, match="linear_w8: groups is 2, expected 1 .* 3"):
        quantize_w8(paddle.zeros([300, 16]), 2)
