"""Qwen-VL's table of weights: names, shapes and orientation in every layout, and what is refused."""

from __future__ import annotations

from math import prod

import pytest

from paddlemix.checkpoint import layouts
from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl.weights import WEIGHTS
from tests.checkpoint.building import CONFIG, name_in

PUBLISHED = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "intermediate_size": 22016,
    "vocab_size": 151936,
    "no_bias": True,
    "visual": {"patch_size": 14, "width": 1664, "layers": 48, "mlp_ratio": 4.9231, "output_dim": 4096},
}


def test_published_model_has_853_tensors_and_9_656_935_168_weights() -> None:
    assert len(WEIGHTS.expected_shapes(PUBLISHED)) == 853
    assert sum(map(prod, WEIGHTS.expected_shapes(PUBLISHED).values())) == 9_656_935_168


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.wte.weight", (151936, 4096)),
        ("lm_head.weight", (151936, 4096)),
        ("transformer.h.31.attn.c_attn.weight", (12288, 4096)),
        ("transformer.h.31.attn.c_attn.bias", (12288,)),
        ("transformer.h.0.mlp.w1.weight", (11008, 4096)),
        ("transformer.h.0.mlp.c_proj.weight", (4096, 11008)),
        ("transformer.visual.conv1.weight", (1664, 3, 14, 14)),
        ("transformer.visual.positional_embedding", (256, 1664)),
        ("transformer.visual.transformer.resblocks.47.attn.in_proj.weight", (4992, 1664)),
        ("transformer.visual.transformer.resblocks.0.mlp.c_fc.weight", (8192, 1664)),
        ("transformer.visual.attn_pool.kv_proj.weight", (4096, 1664)),
        ("transformer.visual.attn_pool.attn.in_proj_weight", (12288, 4096)),
        ("transformer.visual.attn_pool.pos_embed", (256, 4096)),
    ],
)
def test_shapes_of_the_published_pytorch_weights(name: str, shape: tuple[int, ...]) -> None:
    assert WEIGHTS.expected_shapes(PUBLISHED, layouts.HF)[name] == shape


@pytest.mark.parametrize(
    ("original", "paddlemix"),
    [
        ("transformer.h.7.mlp.w2.weight", "transformer.llm.h.7.mlp.w2.weight"),
        ("transformer.ln_f.weight", "transformer.llm.ln_f.weight"),
        ("transformer.visual.conv1.weight", "visual.vit.conv1.weight"),
        ("transformer.visual.ln_pre.bias", "visual.vit.ln_pre.bias"),
        (
            "transformer.visual.transformer.resblocks.3.attn.in_proj.bias",
            "visual.vit.transformer.resblocks.3.attn.in_proj.bias",
        ),
        ("transformer.visual.attn_pool.attn.in_proj_weight", "visual.attn_pool.attn.in_proj_weight"),
        ("transformer.visual.ln_post.weight", "visual.ln_post.weight"),
        ("transformer.visual.proj", "visual.proj"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_names_in_paddlemix(original: str, paddlemix: str) -> None:
    assert name_in(layouts.PADDLEMIX, original) == paddlemix
    assert WEIGHTS.our_name(paddlemix, layouts.PADDLEMIX) == original


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_names_translate_both_ways_without_loss(layout: str) -> None:
    theirs = list(WEIGHTS.expected_shapes(CONFIG, layout))
    ours = [WEIGHTS.our_name(name, layout) for name in theirs]
    assert ours == list(WEIGHTS.expected_shapes(CONFIG))
    assert [name_in(layout, name) for name in ours] == theirs


@pytest.mark.parametrize(
    ("name", "transposed"),
    [
        ("lm_head.weight", True),
        ("transformer.h.0.attn.c_proj.weight", True),  # square: no shape would tell
        ("transformer.visual.attn_pool.attn.out_proj.weight", True),
        ("transformer.visual.attn_pool.attn.in_proj_weight", True),
        ("transformer.visual.attn_pool.kv_proj.weight", True),
        ("transformer.visual.proj", False),  # square, and x @ proj
        ("transformer.wte.weight", False),
        ("transformer.visual.conv1.weight", False),
        ("transformer.visual.attn_pool.query", False),
        ("transformer.visual.positional_embedding", False),
        ("transformer.h.0.ln_1.weight", False),
    ],
)
def test_linear_weights_and_only_they_are_transposed(name: str, transposed: bool) -> None:
    assert WEIGHTS.is_transposed(name, layouts.HF, layouts.PADDLE) is transposed
    assert WEIGHTS.is_transposed(name, layouts.PADDLE, layouts.HF) is transposed
    assert WEIGHTS.is_transposed(name, layouts.PADDLEMIX, layouts.HF) is transposed
    assert WEIGHTS.is_transposed(name, layouts.PADDLEMIX, layouts.PADDLE) is False


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_layout_is_recognized_from_names_and_c_attn(layout: str) -> None:
    assert WEIGHTS.recognize(WEIGHTS.expected_shapes(CONFIG, layout)) == layout


def test_marker_decides_where_no_shape_does() -> None:
    shapes = {"transformer.h.0.attn.c_proj.weight": (8, 8)}
    assert WEIGHTS.recognize(shapes, layouts.PADDLE) == layouts.PADDLE
    with pytest.raises(CheckpointError, match="cannot tell"):
        WEIGHTS.recognize(shapes)


def test_marker_that_contradicts_the_shapes_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="metadata says layout 'paddle'"):
        WEIGHTS.recognize(WEIGHTS.expected_shapes(CONFIG, layouts.HF), layouts.PADDLE)


def test_unknown_marker_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="'sideways' is unknown"):
        WEIGHTS.recognize(WEIGHTS.expected_shapes(CONFIG), "sideways")


def test_square_weights_alone_are_never_guessed() -> None:
    shapes = {"transformer.h.0.attn.c_attn.weight": (8, 8), "transformer.h.0.attn.c_attn.bias": (8,)}
    with pytest.raises(CheckpointError, match="cannot tell"):
        WEIGHTS.recognize(shapes)


def test_gptq_is_a_matter_of_torchs_layout() -> None:
    shapes = {"transformer.wte.weight": (11, 8), "transformer.h.0.attn.c_attn.qweight": (1, 24)}
    assert WEIGHTS.recognize(shapes) == layouts.HF


def test_parts_of_a_gptq_layer_are_known_by_their_weight() -> None:
    for part in layouts.GPTQ_PARTS:
        assert WEIGHTS.gptq_weight(f"transformer.h.1.mlp.w2.{part}") == "transformer.h.1.mlp.w2.weight"
    for name in ("transformer.h.1.mlp.w2.weight", "transformer.h.1.mlp.w3.qweight", "qweight"):
        assert WEIGHTS.gptq_weight(name) is None


def test_other_models_and_mixtures_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a Qwen-VL checkpoint: no weight"):
        WEIGHTS.recognize({"model.layers.0.self_attn.q_proj.weight": (8, 8)})
    with pytest.raises(CheckpointError, match="names of two layouts are mixed"):
        WEIGHTS.recognize({"transformer.wte.weight": (11, 8), "visual.vit.conv1.weight": (6, 3, 2, 2)})


def test_paddlemix_names_in_torch_orientation_are_refused() -> None:
    shapes = {"transformer.llm.h.0.attn.c_attn.weight": (24, 8), "transformer.llm.h.0.attn.c_attn.bias": (24,)}
    with pytest.raises(CheckpointError, match="refusing to guess"):
        WEIGHTS.recognize(shapes)


def test_biases_exist_only_without_no_bias() -> None:
    extra = set(WEIGHTS.expected_shapes({**CONFIG, "no_bias": False})) - set(WEIGHTS.expected_shapes(CONFIG))
    assert {name.split(".", 3)[3] for name in extra} == {
        "attn.c_proj.bias", "mlp.w1.bias", "mlp.w2.bias", "mlp.c_proj.bias",
    }  # fmt: skip


def test_missing_field_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'vocab_size' is missing"):
        WEIGHTS.expected_shapes({name: value for name, value in CONFIG.items() if name != "vocab_size"})


@pytest.mark.parametrize("name", ["transformer.h.01.ln_1.weight", "transformer.h.-1.ln_1.weight", "xlm_head.weight"])
def test_names_that_only_resemble_a_weight_are_unknown(name: str) -> None:
    assert WEIGHTS.our_name(name, layouts.HF) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected an integer of 1 to 1024"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, expected an integer of 1 to 1024"),
        ({"num_hidden_layers": True}, "num_hidden_layers is 'True', expected an integer"),
        ({"hidden_size": "192"}, "hidden_size is '192', expected an integer"),
        ({"hidden_size": 10**300}, "hidden_size is '1000.*…0+', expected an integer"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected an integer"),
        ({"visual": {"layers": 10**9}}, "visual.layers is 1000000000, expected an integer of 1 to 1024"),
        ({"visual": {"n_queries": 10.5}}, "visual.n_queries is '10.5', expected an integer"),
        ({"visual": {"mlp_ratio": float("nan")}}, "mlp_ratio is 'nan', expected a positive number"),
        ({"visual": {"mlp_ratio": [1]}}, r"mlp_ratio is '\[1\]', expected a positive number"),
        ({"visual": 5}, "field 'width' is missing"),
    ],
)
def test_fields_that_are_no_sizes_are_refused_before_names_are_made_of_them(changes, message) -> None:
    visual = changes.get("visual", {})
    config = {**CONFIG, **changes, "visual": {**CONFIG["visual"], **visual} if isinstance(visual, dict) else visual}
    with pytest.raises(ConfigurationError, match=message):
        WEIGHTS.expected_shapes(config)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_layers_are_counted_from_names_of_every_layout(layout) -> None:
    names = [*WEIGHTS.expected_shapes(CONFIG, layout), "transformer.h.999999999999.x", "other.h.7.x"]
    assert WEIGHTS.layer_counts(names) == {"layers": 2, "vit_layers": 2}
    assert WEIGHTS.layer_counts(["transformer.h.0.attn.c_attn.qweight"]) == {"layers": 1, "vit_layers": 0}


def test_names_with_numbers_beyond_any_model_are_not_ours() -> None:
    assert WEIGHTS.our_name("transformer.h.123456.ln_1.weight", layouts.HF) is not None
    assert WEIGHTS.our_name("transformer.h." + "9" * 5000 + ".ln_1.weight", layouts.HF) is None


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.{n}.ln_1.weight",
        "transformer.h.01.ln_1.weight",
        "transformer.h..ln_1.weight",
        "transformer.h.0.ln_1.weight.0.x",
        "transformer.0.ln_f.weight",
        "0.transformer.wte.weight",
        "transformer.h.0.1.ln_1.weight",
        "transformer.h.0.ln_1.weight\n",
    ],
)
def test_names_that_are_almost_ours_are_not(name) -> None:
    assert WEIGHTS.our_name(name, layouts.HF) is None
