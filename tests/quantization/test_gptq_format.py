"""Linear layers as AutoGPTQ stores them, against arrays that AutoGPTQ's own code has read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemix.quantization.gptq_format import GPTQLinear, symmetric_layer
from paddlemix.quantization.layers import QuantizedLinear
from paddlemix.quantization.loading import take_integers
from paddlemix.quantization.tiles import PackedWeight, as_tensor, dequantized
from tests.quantization.building import gptq_layer

GOLDEN = ("linear_sym_g128", "linear_asym_g128", "linear_sym_actorder_g32")


def golden(golden_dir: Path, name: str) -> tuple[GPTQLinear, dict[str, np.ndarray]]:
    with np.load(golden_dir / "int4" / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return GPTQLinear(*(arrays[part] for part in ("qweight", "qzeros", "scales", "g_idx"))), arrays


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights_are_read_exactly(golden_dir, name):
    layer, arrays = golden(golden_dir, name)
    assert layer.problems(name) == []
    assert layer.dequantized().dtype == np.float32
    np.testing.assert_array_equal(layer.dequantized(), arrays["dequant"])
    columns = slice(16, 48)
    np.testing.assert_array_equal(layer.dequantized(columns), arrays["dequant"][:, columns])


def test_only_symmetric_layers_in_order_with_groups_of_128_fit_our_int4(golden_dir):
    assert [golden(golden_dir, name)[0].fits_tiles() for name in GOLDEN] == [True, False, False]


@pytest.mark.parametrize(("group_size", "fits"), [(128, True), (256, True), (512, True), (64, False), (96, False)])
def test_larger_groups_fit_as_well(group_size, fits):
    arrays, _ = gptq_layer(np.random.default_rng(0), 512, 32, group_size=group_size)
    arrays.pop("bias")
    assert GPTQLinear(**arrays).fits_tiles() is fits


@pytest.mark.parametrize("group_size", [128, 256])
@pytest.mark.parametrize("in_features", [192, 256, 512])
def test_what_fits_becomes_tiles_with_the_same_integers_and_scales(in_features, group_size):
    arrays, weight = gptq_layer(np.random.default_rng(1), in_features, 40, group_size=group_size)
    arrays.pop("bias")
    packed = PackedWeight("int4", in_features, 40)
    take_integers(packed, GPTQLinear(**arrays))
    tensors = as_tensor(packed.weight, "uint8"), as_tensor(packed.scales, "float16")
    np.testing.assert_array_equal(dequantized("int4", *tensors, in_features, 40), weight)


def test_golden_layer_computes_what_the_original_does(golden_dir):
    layer, arrays = golden(golden_dir, "linear_sym_g128")
    packed = PackedWeight("int4", layer.in_features, layer.out_features)
    take_integers(packed, layer)
    linear = QuantizedLinear(layer.in_features, layer.out_features, "int4")
    bias = paddle.to_tensor(arrays["bias"].astype(np.float32))
    linear.fill(as_tensor(packed.weight, "uint8"), as_tensor(packed.scales, "float16"), bias)
    with paddle.no_grad():
        y = linear(paddle.to_tensor(arrays["x"])).numpy()
    # activations may be rounded to 8 bits: at most half a step of max |x| / 127 for each input
    bound = np.abs(arrays["dequant"]).sum(axis=0) * np.abs(arrays["x"]).max() / 254
    assert np.all(np.abs(y - arrays["y"]) <= bound + 1e-5)


def test_integers_and_scales_are_written_as_they_are_read(golden_dir):
    layer, _ = golden(golden_dir, "linear_sym_g128")
    again = symmetric_layer((layer.integers() - 8).astype(np.int8), layer.scales)
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        np.testing.assert_array_equal(getattr(again, part), getattr(layer, part))
        assert getattr(again, part).dtype == getattr(layer, part).dtype


def test_damaged_layers_are_described(golden_dir):
    layer, _ = golden(golden_dir, "linear_sym_g128")
    short = dataclasses.replace(layer, qzeros=layer.qzeros[:, 1:], g_idx=layer.g_idx[1:])
    assert short.problems("x") == [
        "'x.qzeros' has shape [2, 47], expected [2, 48]",
        "'x.g_idx' has shape [255], expected [256]",
    ]
    assert dataclasses.replace(layer, g_idx=layer.g_idx + 1).problems("x") == ["'x.g_idx' names groups outside of 0..1"]
    scales = layer.scales.copy()
    scales[0, 0] = np.nan
    assert dataclasses.replace(layer, scales=scales).problems("x") == ["'x.scales' holds NaN or infinite values"]


def zeros_by_autogptq(words: np.ndarray) -> np.ndarray:
    """Zero points of int32 ``[groups, out / 8]`` the way AutoGPTQ 0.7.1 gets them: shifted right with the sign, as
    int8, plus 1, the lowest four bits."""
    shifted = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.int32)).astype(np.int8)
    return ((shifted + np.int8(1)) & np.int8(15)).reshape(len(words), -1)


def with_zeros(words: np.ndarray) -> GPTQLinear:
    out = 8 * words.shape[1]
    q, scales = np.full((1, out), 0x11111111, np.int32), np.ones((len(words), out), np.float16)
    return GPTQLinear(q, words, scales, np.zeros(8, np.int32))


def test_a_zero_point_of_0_is_stored_as_15_and_read_as_0():
    layer = with_zeros(np.full((1, 1), -1, np.int32))
    np.testing.assert_array_equal(layer.zeros(), np.zeros((1, 8)))
    np.testing.assert_array_equal(layer.dequantized(), np.ones((8, 8)))


def test_words_from_which_1_was_taken_with_borrows_are_read_as_autogptq_reads_them():
    zeros = np.array([[0, 5, 0, 0, 15, 1, 0, 8]])
    borrowed = int(sum(int(zero) << (4 * n) for n, zero in enumerate(zeros[0]))) - 0x11111111
    words = np.array([[borrowed & 0xFFFFFFFF]], np.uint32).view(np.int32)
    np.testing.assert_array_equal(with_zeros(words).zeros(), [[0, 4, 0, 15, 14, 1, 0, 7]])
    np.testing.assert_array_equal(with_zeros(words).zeros(), zeros_by_autogptq(words))


def test_zero_points_of_any_words_are_those_of_autogptq():
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 64)).astype(np.int32)
    np.testing.assert_array_equal(with_zeros(words).zeros(), zeros_by_autogptq(words))
    assert not with_zeros(words).fits_tiles()


def test_empty_layers_are_described():
    layer = GPTQLinear(
        np.zeros((0, 8), np.int32), np.zeros((1, 1), np.int32), np.ones((1, 8), np.float16), np.zeros(0, np.int32)
    )
    assert layer.problems("x") == ["'x.qweight' or its scales are empty"]
