"""Parts of quantized weights stand for the same numbers as the whole does there."""

import numpy as np
import pytest

from paddlemix.quantization.cuts import Cut
from paddlemix.quantization.gptq_format import symmetric_layer
from paddlemix.quantization.tiles import PackedWeight, as_tensor, dequantized

INPUTS, OUTPUTS = 384, 96
CUTS = [
    Cut(INPUTS, OUTPUTS, slice(128, 384), (slice(0, OUTPUTS),)),
    Cut(INPUTS, OUTPUTS, slice(0, 128), (slice(0, OUTPUTS),)),
    Cut(INPUTS, OUTPUTS, slice(0, INPUTS), (slice(16, 32), slice(48, 80))),
]


def part_of(cut, values):
    return np.concatenate([values[cut.rows, columns] for columns in cut.columns], axis=1)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", ["int4", "int8", "bfloat16", "float16"])
def test_tiles_are_cut_between_them(kind, cut):
    values = np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS)).astype("float32")
    packed = PackedWeight(kind, INPUTS, OUTPUTS)
    packed.quantize(slice(0, OUTPUTS), values)

    def read(weight, scales, inputs, outputs):
        tensors = (
            as_tensor(weight, kind if scales is None else "uint8"),
            None if scales is None else as_tensor(scales, str(scales.dtype)),
        )
        return dequantized(kind, *tensors, inputs, outputs)

    whole = read(packed.weight, packed.scales, INPUTS, OUTPUTS)
    arrays = cut.take_tiles(kind, packed.weight, packed.scales)
    expected = part_of(cut, whole)
    part = read(arrays[0], arrays[1] if len(arrays) > 1 else None, *expected.shape)
    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("cut", CUTS)
def test_gptq_words_are_cut_between_them(cut):
    rng = np.random.default_rng(0)
    q = rng.integers(-8, 8, (INPUTS, OUTPUTS)).astype(np.int8)
    layer = symmetric_layer(q, rng.random((INPUTS // 128, OUTPUTS)).astype(np.float16))
    part = cut.take_gptq(layer)
    np.testing.assert_array_equal(part.dequantized(), part_of(cut, layer.dequantized()))
    np.testing.assert_array_equal(
        np.repeat(part.group_scales(), 128, axis=0)[: part.in_features],
        part_of(cut, np.repeat(layer.group_scales(), 128, axis=0)),
    )


def test_places_of_a_part_are_found_in_the_weight_that_holds_it_beside_others():
    cut = Cut(8, 6, slice(0, 8), (slice(1, 3), slice(4, 6)), first=12)
    assert cut.columns_of_float(slice(1, 3)) == [slice(14, 15), slice(16, 17)]
    assert cut.take_columns(np.arange(6)).tolist() == [1, 2, 4, 5]
