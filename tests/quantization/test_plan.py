"""Which weights get which format, and how much memory that takes."""

from __future__ import annotations

import pytest

from paddlemix.checkpoint import layouts
from paddlemix.errors import ConfigurationError
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.quantization.plan import (
    FORMATS,
    QuantizationPlan,
    plan_for,
    quant_method,
    tile_arrays,
    weight_bytes,
)
from tests.checkpoint.building import CONFIG
from tests.models.qwen_vl.test_weights import PUBLISHED
from tests.quantization.building import SECTION

BF16 = "bfloat16"


@pytest.mark.parametrize(
    ("asked", "formats"),
    [
        (("int4", None), ("int4", "int8", "int8", BF16)),
        (("int4", "bf16"), ("int4", "int8", BF16, BF16)),
        (("nf4", None), ("nf4", "int8", "int8", BF16)),
        (("nf4", "bf16"), ("nf4", "int8", BF16, BF16)),
        (("int8", None), ("int8", "int8", "int8", BF16)),
        (("int8", "bf16"), ("int8", "int8", BF16, BF16)),
        (("bf16", None), (BF16, BF16, BF16, BF16)),
        (("bf16", "int8"), (BF16, BF16, "int8", BF16)),
    ],
)
def test_what_a_user_asks_for_decides_blocks_head_vision_and_embeddings(asked, formats):
    assert plan_for(None, *asked) == QuantizationPlan(*formats)


def test_float16_checkpoints_keep_it_wherever_16_bits_are_asked_for():
    assert plan_for(None, "bf16", None, sixteen_bit="float16") == QuantizationPlan(*["float16"] * 4)


def test_gptq_comes_as_published_or_with_an_int8_head_and_vision():
    plain = plan_for(SECTION, None, None, sixteen_bit="float16")
    assert plain == QuantizationPlan("int4", "float16", "float16", "float16")
    assert plan_for(SECTION, None, "int8", sixteen_bit="float16").visual == "int8"
    asked = plan_for(SECTION, "int4", None, sixteen_bit="float16")
    assert asked == QuantizationPlan("int4", "int8", "int8", "float16")


def test_gptq_layers_that_do_not_fit_int4_are_kept_in_16_bits_unless_int8_is_asked_for():
    plans = [plan_for(SECTION, q, None, sixteen_bit="float16", exact=False) for q in (None, "int4", "int8")]
    assert [plan.blocks for plan in plans] == ["float16", "float16", "int8"]


def test_bitsandbytes_comes_in_nf4_with_16_bits_elsewhere():
    section = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert plan_for(section, None, None) == QuantizationPlan("nf4", BF16, BF16, BF16)
    assert plan_for(section, "int8", None).blocks == "int8"
    assert plan_for(section, None, None, exact=False).blocks == BF16
    for field, value in (("load_in_4bit", False), ("bnb_4bit_quant_type", "fp4"), ("bnb_4bit_quant_storage", "int8")):
        with pytest.raises(ConfigurationError, match=f"quantization_config.{field}: got"):
            plan_for({**section, field: value}, None, None)


def test_nothing_is_quantized_unasked():
    assert plan_for(None, None, None) is None
    assert plan_for({}, None, None) is None


@pytest.mark.parametrize(
    ("section", "asked", "message"),
    [
        (None, ("int3", None), "quantization: got 'int3', expected one of int8, int4, bf16"),
        (None, ("int4", "int4"), "vision_quantization: got 'int4', expected one of int8, bf16"),
        (None, (None, "int8"), "vision_quantization: got 'int8' without quantization"),
        ({"quant_method": "awq"}, (None, None), "quant_method: 'awq' checkpoints are not supported"),
        ({**SECTION, "bits": 8}, (None, None), "quantization_config.bits: got 8, only 4 is supported"),
        ({**SECTION, "checkpoint_format": "marlin"}, (None, None), "checkpoint_format: got 'marlin', only 'gptq'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_choices(section, asked, message):
    with pytest.raises(ConfigurationError, match=message):
        plan_for(section, *asked)


def test_autogptqs_section_without_a_method_is_known():
    assert quant_method({name: value for name, value in SECTION.items() if name != "quant_method"}) == "gptq"


@pytest.mark.parametrize("asked", [("int4", None), ("int4", "bf16"), ("int8", None), ("bf16", None)])
def test_the_plan_is_in_the_configuration_of_what_it_made(asked):
    plan = plan_for(None, *asked)
    section = plan.to_config()
    assert plan_for(section, None, None) == plan
    assert plan_for(section, asked[0], None) == plan
    with pytest.raises(ConfigurationError, match="quantized already .*blocks .*leave them out"):
        plan_for(section, "bf16" if asked[0] != "bf16" else "int8", None)


def test_a_quantized_checkpoint_is_not_given_another_vision_format():
    section = plan_for(None, "int4", None).to_config()
    with pytest.raises(ConfigurationError, match="quantized already"):
        plan_for(section, None, "bf16")


@pytest.mark.parametrize(
    ("field", "value"), [("version", 2), ("group_size", 64), ("blocks", "int2"), ("embeddings", "int8")]
)
def test_sections_of_other_versions_are_refused_by_their_field(field, value):
    with pytest.raises(ConfigurationError, match=f"quantization_config.{field}: got {value!r}"):
        plan_for({**plan_for(None, "int4", None).to_config(), field: value}, None, None)


def test_every_linear_weight_has_a_format_and_nothing_else_but_the_embeddings():
    plan = QuantizationPlan("int4", "int8", "float16", BF16)
    kinds = {name: plan.format_of(name, WEIGHTS) for name in WEIGHTS.expected_shapes(CONFIG)}
    assert kinds["transformer.wte.weight"] == BF16
    assert kinds["lm_head.weight"] == "int8"
    assert kinds["transformer.h.1.mlp.c_proj.weight"] == "int4"
    visual = [name for name, kind in kinds.items() if kind == "float16"]
    assert "transformer.visual.proj" in visual and "transformer.visual.attn_pool.attn.in_proj_weight" in visual
    assert all(name.startswith("transformer.visual.") for name in visual)
    for name in ("transformer.ln_f.weight", "transformer.visual.conv1.weight", "transformer.h.0.attn.c_attn.bias"):
        assert kinds[name] is None
    linears = [name for name in kinds if WEIGHTS.is_transposed(name, layouts.HF, layouts.PADDLE)]
    assert all(kinds[name] for name in linears)


@pytest.mark.parametrize("kind", FORMATS)
def test_tiles_are_padded_to_whole_ones(kind):
    expected = {
        "int4": {"qweight": ((2, 32, 16, 4), "uint8"), "scales": ((2, 2, 16), "float16")},
        "int8": {"qweight": ((2, 64, 16, 4), "uint8"), "scales": ((2, 1, 16), "float32")},
        "nf4": {"qweight": ((2, 32, 16, 4), "uint8"), "scales": ((2, 4, 16), "uint8"), "nested": ((272,), "float32")},
    }
    assert tile_arrays(kind, 193, 17) == expected.get(kind, {"qweight": ((2, 112, 16, 2), kind)})


def test_published_model_takes_the_memory_that_is_said():
    sizes = {
        name: weight_bytes(WEIGHTS, PUBLISHED, "float32", plan_for(None, name, None)) / 1e9
        for name in ("bf16", "int8", "int4", "nf4")
    }
    assert weight_bytes(WEIGHTS, PUBLISHED, "float32") == 4 * 9_656_935_168
    assert sizes == {
        "bf16": pytest.approx(19.32, abs=0.02),
        "int8": pytest.approx(10.3, abs=0.1),
        "int4": pytest.approx(7.2, abs=0.1),
        "nf4": pytest.approx(7.2, abs=0.1),
    }
