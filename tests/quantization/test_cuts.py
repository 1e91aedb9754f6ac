"""Parts of quantized weights stand for the same numbers as the whole does there."""

import numpy as np
import paddle
import pytest

from paddlemix.checkpoint.shards import Partition
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.ops.linear_w8 import linear_w8
from paddlemix.parallel.group import SINGLE, TensorParallelGroup
from paddlemix.quantization.cuts import Cut, finest_alignment, tile_alignment
from paddlemix.quantization.gptq_format import symmetric_layer
from paddlemix.quantization.plan import plan_for
from paddlemix.quantization.tiles import PackedWeight, as_tensor, dequantized
from tests.quantization.building import write_gptq_model

INPUTS, OUTPUTS = 384, 96
CUTS = [
    Cut(INPUTS, OUTPUTS, slice(128, 384), (slice(0, OUTPUTS),)),
    Cut(INPUTS, OUTPUTS, slice(0, 128), (slice(0, OUTPUTS),)),
    Cut(INPUTS, OUTPUTS, slice(0, INPUTS), (slice(16, 32), slice(48, 80))),
]
#: between lines of tiles, for formats without scales of inputs
FINE_CUTS = [
    Cut(INPUTS, OUTPUTS, slice(104, 208), (slice(0, OUTPUTS),)),
    Cut(INPUTS, OUTPUTS, slice(208, 384), (slice(0, OUTPUTS),)),
]
FORMATS_AND_CUTS = [(kind, cut) for kind in ("int4", "int8", "bfloat16", "float16") for cut in CUTS] + [
    (kind, cut) for kind in ("int8", "bfloat16", "float16") for cut in FINE_CUTS
]


def part_of(cut, values):
    return np.concatenate([values[cut.rows, columns] for columns in cut.columns], axis=1)


@pytest.mark.parametrize(("kind", "cut"), FORMATS_AND_CUTS)
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


@pytest.mark.parametrize("cut", [*CUTS[:2], *FINE_CUTS])
def test_tiles_of_a_part_are_the_same_from_floats_and_from_tiles(cut):
    values = np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS)).astype("float32")
    whole, part = PackedWeight("int8", INPUTS, OUTPUTS), PackedWeight("int8", cut.rows.stop - cut.rows.start, OUTPUTS)
    whole.quantize(slice(0, OUTPUTS), values)
    part.quantize(slice(0, OUTPUTS), values, cut.rows)
    for found, expected in zip((part.weight, part.scales), cut.take_tiles("int8", whole.weight, whole.scales)):
        np.testing.assert_array_equal(found, expected)


def test_products_with_parts_of_int8_add_up_to_that_with_the_whole(any_backend):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((INPUTS, OUTPUTS)).astype("float32")
    x = rng.standard_normal((3, INPUTS)).astype("float32")
    whole = PackedWeight("int8", INPUTS, OUTPUTS)
    whole.quantize(slice(0, OUTPUTS), values)
    arrays = whole.weight, whole.scales

    def product(x, arrays):
        tensors = [as_tensor(array, str(array.dtype)) for array in arrays]
        return linear_w8(paddle.to_tensor(x), *tensors, None, OUTPUTS).numpy()

    expected = product(x, arrays)
    cuts = [Cut(INPUTS, OUTPUTS, slice(*ends), (slice(0, OUTPUTS),)) for ends in ((0, 104), (104, 208), (208, 384))]
    found = sum(product(x[:, cut.rows], cut.take_tiles("int8", *arrays)) for cut in cuts)
    # both sides round each activation by at most a 254th of the largest in its group
    rounded = 2 * np.abs(x).max() / 254 * np.abs(values).sum(axis=0)
    assert (np.abs(found - expected) <= (rounded if any_backend == "cpu" else 1e-4)).all()


@pytest.mark.parametrize(("processes", "quantization"), [(2, "int4"), (4, "int8"), (8, "int4"), (8, "bf16")])
def test_every_layer_of_the_published_vision_encoder_is_split(processes, quantization):
    plan = plan_for(None, quantization, None)
    alignments = tile_alignment(plan), finest_alignment(plan)
    partitions = [Partition(WEIGHTS, QWenVLConfig(), rank, processes, *alignments) for rank in range(processes)]
    for partition in partitions:
        shards = partition.shards
        heads = 16 // processes
        block = "transformer.visual.transformer.resblocks.47"
        assert shards[f"{block}.attn.in_proj.weight"].shape == (1664, 3 * 104 * heads)
        assert shards[f"{block}.attn.out_proj.weight"].shape == (104 * heads, 1664)
        assert shards["transformer.h.31.mlp.c_proj.weight"].slices[0].start % 32 == 0  # pieces enough without it


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


def test_parts_of_gptq_layers_in_int8_are_rounded_as_the_whole_is(tiny_model_dir, tmp_path):
    write_gptq_model(tmp_path, tiny_model_dir)

    def layers(group=SINGLE):
        model = QWenLMHeadModel.from_directory(tmp_path, quantization="int8", group=group)
        found = dict(model.named_sublayers())
        names = [f"transformer.h.{n}.{layer}.c_proj" for n in range(2) for layer in ("attn", "mlp")]
        return [
            dequantized("int8", layer.qweight, layer.scales, layer.in_features, layer.out_features)
            for layer in map(found.get, names)
        ]

    parts = [layers(TensorParallelGroup(rank, 2)) for rank in range(2)]
    for whole, first, second in zip(layers(), *parts):
        assert len(first) == len(second) == len(whole) // 2
        np.testing.assert_array_equal(np.concatenate([first, second]), whole)


def test_places_of_a_part_are_found_in_the_weight_that_holds_it_beside_others():
    cut = Cut(8, 6, slice(0, 8), (slice(1, 3), slice(4, 6)), first=12)
    assert cut.columns_of_float(slice(1, 3)) == [slice(14, 15), slice(16, 17)]
    assert cut.take_columns(np.arange(6)).tolist() == [1, 2, 4, 5]
