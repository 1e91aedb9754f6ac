"""Qwen-VL's weights: their names, shapes and orientation in every layout, and the groups that other packages work on.

Everything that converts, loads, checks, quantizes, freezes or adapts weights reads them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoint.layouts import MAX_LAYERS, MAX_SIZE, Rule, Split, WeightTable, config_field, config_size
from ...errors import ConfigurationError
from ...utils.display import quoted
from .config_schema import resampler_heads


def _norm(name: str, paddlemix: str, width: str, repeat: str | None = None) -> tuple[Rule, Rule]:
    return (
        Rule(f"{name}.weight", f"{paddlemix}.weight", (width,), repeat=repeat),
        Rule(f"{name}.bias", f"{paddlemix}.bias", (width,), repeat=repeat),
    )


def _linear(
    name: str, paddlemix: str, inputs: str, outputs: str, repeat: str | None, bias: bool = True
) -> tuple[Rule, ...]:
    part = "blocks" if repeat == "layers" else "visual"
    weight = Rule(f"{name}.weight", f"{paddlemix}.weight", (inputs, outputs), linear=True, repeat=repeat, part=part)
    return (weight, Rule(f"{name}.bias", f"{paddlemix}.bias", (outputs,), repeat=repeat, optional_bias=not bias))


_BLOCK, _MIX_BLOCK = "transformer.h.{n}", "transformer.llm.h.{n}"
_VIT, _MIX_VIT = "transformer.visual", "visual.vit"
_RES, _MIX_RES = _VIT + ".transformer.resblocks.{n}", _MIX_VIT + ".transformer.resblocks.{n}"
_POOL, _MIX_POOL = "transformer.visual.attn_pool", "visual.attn_pool"
_EMBEDDING = "transformer.wte.weight"
#: the packed projection of the resampler's attention as the layers of a quantized model: of queries, keys and values
_POOL_PROJECTIONS = tuple(f"{_POOL}.attn.in_proj.{third}" for third in range(3))

_RULES: tuple[Rule, ...] = (
    Rule(_EMBEDDING, "transformer.llm.wte.weight", ("vocab", "hidden"), part="embeddings"),
    Rule(_BLOCK + ".ln_1.weight", _MIX_BLOCK + ".ln_1.weight", ("hidden",), repeat="layers"),
    *_linear(_BLOCK + ".attn.c_attn", _MIX_BLOCK + ".attn.c_attn", "hidden", "qkv", "layers"),
    *_linear(_BLOCK + ".attn.c_proj", _MIX_BLOCK + ".attn.c_proj", "attention", "hidden", "layers", bias=False),
    Rule(_BLOCK + ".ln_2.weight", _MIX_BLOCK + ".ln_2.weight", ("hidden",), repeat="layers"),
    *_linear(_BLOCK + ".mlp.w1", _MIX_BLOCK + ".mlp.w1", "hidden", "ffn", "layers", bias=False),
    *_linear(_BLOCK + ".mlp.w2", _MIX_BLOCK + ".mlp.w2", "hidden", "ffn", "layers", bias=False),
    *_linear(_BLOCK + ".mlp.c_proj", _MIX_BLOCK + ".mlp.c_proj", "ffn", "hidden", "layers", bias=False),
    Rule("transformer.ln_f.weight", "transformer.llm.ln_f.weight", ("hidden",)),
    Rule(_VIT + ".conv1.weight", _MIX_VIT + ".conv1.weight", ("vit", "rgb", "patch", "patch")),
    Rule(_VIT + ".positional_embedding", _MIX_VIT + ".positional_embedding", ("positions", "vit")),
    *_norm(_VIT + ".ln_pre", _MIX_VIT + ".ln_pre", "vit"),
    *_norm(_RES + ".ln_1", _MIX_RES + ".ln_1", "vit", "vit_layers"),
    *_linear(_RES + ".attn.in_proj", _MIX_RES + ".attn.in_proj", "vit", "vit_qkv", "vit_layers"),
    *_linear(_RES + ".attn.out_proj", _MIX_RES + ".attn.out_proj", "vit_attention", "vit", "vit_layers"),
    *_norm(_RES + ".ln_2", _MIX_RES + ".ln_2", "vit", "vit_layers"),
    *_linear(_RES + ".mlp.c_fc", _MIX_RES + ".mlp.c_fc", "vit", "vit_ffn", "vit_layers"),
    *_linear(_RES + ".mlp.c_proj", _MIX_RES + ".mlp.c_proj", "vit_ffn", "vit", "vit_layers"),
    Rule(_POOL + ".query", _MIX_POOL + ".query", ("queries", "out")),
    Rule(_POOL + ".pos_embed", _MIX_POOL + ".pos_embed", ("queries", "out"), constant=True),
    Rule(_POOL + ".kv_proj.weight", _MIX_POOL + ".kv_proj.weight", ("vit", "out"), linear=True, part="visual"),
    # torch's MultiheadAttention: packed projection, underscores instead of dots, a Linear weight nevertheless
    Rule(
        _POOL + ".attn.in_proj_weight",
        _MIX_POOL + ".attn.in_proj_weight",
        ("out", "out_qkv"),
        linear=True,
        part="visual",
        quantized_layers=_POOL_PROJECTIONS,
    ),
    Rule(
        _POOL + ".attn.in_proj_bias",
        _MIX_POOL + ".attn.in_proj_bias",
        ("out_qkv",),
        quantized_layers=_POOL_PROJECTIONS,
    ),
    *_linear(_POOL + ".attn.out_proj", _MIX_POOL + ".attn.out_proj", "out_attention", "out", None),
    *_norm(_POOL + ".ln_q", _MIX_POOL + ".ln_q", "out"),
    *_norm(_POOL + ".ln_kv", _MIX_POOL + ".ln_kv", "out"),
    *_norm(_VIT + ".ln_post", "visual.ln_post", "out"),
    # used as x @ proj: not a Linear, never transposed
    Rule(_VIT + ".proj", "visual.proj", ("out", "out"), part="visual"),
    Rule("lm_head.weight", "lm_head.weight", ("hidden", "vocab"), linear=True, part="head"),
)


def _dimensions(config: Any) -> dict[str, int]:
    """See :attr:`~paddlemix.checkpoint.layouts.WeightTable.dimensions`."""
    visual = config_field(config, "visual")
    hidden, heads = config_size(config, "hidden_size"), config_size(config, "num_attention_heads")
    width = config_size(visual, "width", section="visual.")
    out = config_size(visual, "output_dim", section="visual.")
    queries = config_size(visual, "n_queries", 256, section="visual.")
    attention = config_size(config, "kv_channels", max(1, hidden // heads)) * heads
    ratio = config_field(visual, "mlp_ratio")
    if type(ratio) not in (int, float) or not 0 < ratio <= MAX_SIZE:
        raise ConfigurationError(f"config: visual.mlp_ratio is {quoted(str(ratio)[:1000])}, expected a positive number")
    return {
        "vocab": config_size(config, "vocab_size"),
        "hidden": hidden,
        "layers": config_size(config, "num_hidden_layers", limit=MAX_LAYERS),
        "heads": heads,
        "attention": attention,
        "qkv": 3 * attention,
        "ffn": config_size(config, "intermediate_size") // 2,  # the field counts gate and up together
        "optional_biases": int(not config_field(config, "no_bias", True)),
        "rgb": 3,
        "patch": config_size(visual, "patch_size", section="visual."),
        "vit": width,
        "vit_layers": config_size(visual, "layers", limit=MAX_LAYERS, section="visual."),
        "vit_heads": config_size(visual, "heads", 16, section="visual."),
        "vit_attention": width,
        "vit_qkv": 3 * width,
        "vit_ffn": int(width * ratio),
        "positions": config_size(visual, "num_positions", 256, section="visual."),
        "queries": queries,
        "out": out,
        "out_heads": resampler_heads(out),
        "out_attention": out,
        "out_qkv": 3 * out,
    }


WEIGHTS = WeightTable(
    family="Qwen-VL",
    rules=_RULES,
    dimensions=_dimensions,
    layer_fields={"layers": "num_hidden_layers", "vit_layers": "visual.layers"},
    orientation=_BLOCK + ".attn.c_attn.weight",
    embedding=_EMBEDDING,
    splits={
        "vocab": Split("vocab"),
        "qkv": Split("heads", repeat=3),
        "attention": Split("heads"),
        "ffn": Split("ffn"),
        "vit_qkv": Split("vit_heads"),  # interleaved by head
        "vit_attention": Split("vit_heads"),
        "vit_ffn": Split("vit_ffn"),
        "out_qkv": Split("out_heads", repeat=3),
        "out_attention": Split("out_heads"),
    },
    fingerprint=frozenset({_BLOCK + ".ln_1.weight", _BLOCK + ".ln_2.weight", "transformer.ln_f.weight"}),
)

GPTQ_STAGES = (("attn.c_attn",), ("attn.c_proj",), ("mlp.w1", "mlp.w2"), ("mlp.c_proj",))
"""Linear layers of a decoder block in the order of the computation; those of one stage see the same input."""

ADAPTER_TARGETS = ("c_attn", "attn.c_proj", "w1", "w2")
"""Layers that the original's fine-tuning adapts."""

_VIT_PARAMETERS = (
    "transformer.visual.conv1.*",
    "transformer.visual.positional_embedding",
    "transformer.visual.ln_pre.*",
    "transformer.visual.transformer.*",
)
_AFTER_RESAMPLER = ("transformer.visual.ln_post.*", "transformer.visual.proj")

FREEZE_PRESETS: Mapping[str, tuple[str, ...]] = {
    # everything visual before the resampler
    "freeze_vit": _VIT_PARAMETERS,
    # what the original's option of this name and PaddleMIX freeze: the norm and the projection behind the resampler too
    "fix_vit": (*_VIT_PARAMETERS, *_AFTER_RESAMPLER),
    "freeze_resampler": ("transformer.visual.attn_pool.*", *_AFTER_RESAMPLER),
    "freeze_llm": ("transformer.wte.*", "transformer.h.*", "transformer.ln_f.*", "lm_head.*"),
}
"""Preset of the option ``freeze`` -> globs of the parameters that it freezes."""
