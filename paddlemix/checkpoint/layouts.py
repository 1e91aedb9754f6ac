"""The one table of Qwen-VL's weights: their names, shapes and orientation in the three layouts that exist.

================  ==============================  =====================  ===========================
layout            names                           Linear weights         found in
================  ==============================  =====================  ===========================
``hf``            the original's                  ``[out, in]`` (torch)  ``.bin``, ``.safetensors``
``paddle``        the original's                  ``[in, out]``          our ``.safetensors``
``paddlemix``     ``transformer.llm.*`` etc.      ``[in, out]``          ``.pdparams``
================  ==============================  =====================  ===========================

Quantized checkpoints are of these layouts too: GPTQ's of ``hf``, with ``.qweight`` and its companions in place of some
``.weight``; our own of ``paddle``, with packed tiles (:mod:`paddlemix.quantization`).

Everything else (conversion, loading, checks) is derived from :data:`RULES`. A square Linear has the same shape in every
layout, so a layout is told from names, from our own marker and from ``c_attn``, which is never square; shapes of square
weights decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, ConfigurationError
from ..utils.display import quoted

HF, PADDLE, PADDLEMIX = "hf", "paddle", "paddlemix"
LAYOUTS = (HF, PADDLE, PADDLEMIX)
#: key of the marker in the metadata of the safetensors files that we write
MARKER = "paddlemix_layout"
#: the same for files whose linear weights are quantized tiles, and the version of their layout
PACKING_MARKER, PACKING = "paddlemix_packing", "1"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """One weight, or one weight per layer where the names hold ``{n}``.

    ``shape`` is that of the Paddle layout, in the dimensions of :func:`dimensions`. ``linear``: the torch layout is the
    transpose. ``repeat``: the dimension that counts the layers. ``optional_bias``: exists only if ``no_bias`` is false.
    """

    name: str
    paddlemix: str
    shape: tuple[str, ...]
    linear: bool = False
    repeat: str | None = None
    optional_bias: bool = False


def _norm(name: str, paddlemix: str, width: str, repeat: str | None = None) -> tuple[Rule, Rule]:
    return (
        Rule(f"{name}.weight", f"{paddlemix}.weight", (width,), repeat=repeat),
        Rule(f"{name}.bias", f"{paddlemix}.bias", (width,), repeat=repeat),
    )


def _linear(name: str, paddlemix: str, inputs: str, outputs: str, repeat: str, bias: bool = True) -> tuple[Rule, ...]:
    weight = Rule(f"{name}.weight", f"{paddlemix}.weight", (inputs, outputs), linear=True, repeat=repeat)
    return (weight, Rule(f"{name}.bias", f"{paddlemix}.bias", (outputs,), repeat=repeat, optional_bias=not bias))


_BLOCK, _MIX_BLOCK = "transformer.h.{n}", "transformer.llm.h.{n}"
_VIT, _MIX_VIT = "transformer.visual", "visual.vit"
_RES, _MIX_RES = _VIT + ".transformer.resblocks.{n}", _MIX_VIT + ".transformer.resblocks.{n}"
_POOL, _MIX_POOL = "transformer.visual.attn_pool", "visual.attn_pool"
IMAGE_PROJECTION = "transformer.visual.proj"

RULES: tuple[Rule, ...] = (
    Rule("transformer.wte.weight", "transformer.llm.wte.weight", ("vocab", "hidden")),
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
    *_linear(_RES + ".attn.out_proj", _MIX_RES + ".attn.out_proj", "vit", "vit", "vit_layers"),
    *_norm(_RES + ".ln_2", _MIX_RES + ".ln_2", "vit", "vit_layers"),
    *_linear(_RES + ".mlp.c_fc", _MIX_RES + ".mlp.c_fc", "vit", "vit_ffn", "vit_layers"),
    *_linear(_RES + ".mlp.c_proj", _MIX_RES + ".mlp.c_proj", "vit_ffn", "vit", "vit_layers"),
    Rule(_POOL + ".query", _MIX_POOL + ".query", ("queries", "out")),
    Rule(_POOL + ".pos_embed", _MIX_POOL + ".pos_embed", ("queries", "out")),
    Rule(_POOL + ".kv_proj.weight", _MIX_POOL + ".kv_proj.weight", ("vit", "out"), linear=True),
    # torch's MultiheadAttention: packed projection, underscores instead of dots, a Linear weight nevertheless
    Rule(_POOL + ".attn.in_proj_weight", _MIX_POOL + ".attn.in_proj_weight", ("out", "out_qkv"), linear=True),
    Rule(_POOL + ".attn.in_proj_bias", _MIX_POOL + ".attn.in_proj_bias", ("out_qkv",)),
    Rule(_POOL + ".attn.out_proj.weight", _MIX_POOL + ".attn.out_proj.weight", ("out", "out"), linear=True),
    Rule(_POOL + ".attn.out_proj.bias", _MIX_POOL + ".attn.out_proj.bias", ("out",)),
    *_norm(_POOL + ".ln_q", _MIX_POOL + ".ln_q", "out"),
    *_norm(_POOL + ".ln_kv", _MIX_POOL + ".ln_kv", "out"),
    *_norm(_VIT + ".ln_post", "visual.ln_post", "out"),
    Rule(IMAGE_PROJECTION, "visual.proj", ("out", "out")),  # used as x @ proj: not a Linear, never transposed
    Rule("lm_head.weight", "lm_head.weight", ("hidden", "vocab"), linear=True),
)

#: Keys that some tools save although they are computed, not learned; they are passed over wherever they occur.
HARMLESS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|inv_freq|attn\.masked_bias)$")
#: What wrappers of a model write before its names: of torch in parallel, compiled or sharded, and of adapters.
WRAPPERS = (
    "module.", "_orig_mod.", "base_model.model.", "_fsdp_wrapped_module.", "_forward_module.", "model.",
)  # fmt: skip
_MAX_WRAPPERS = 8
#: How tensors of a GPTQ layer are called, in place of ``.weight``.
GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")
#: more layers than any model has, and few enough to list the names of their weights
MAX_LAYERS = 1024
MAX_SIZE = 1 << 40
_LAYER = re.compile(
    r"transformer\.(?:llm\.)?h\.(?P<n>\d{1,6})\.|"
    r"(?:transformer\.visual|visual\.vit)\.transformer\.resblocks\.(?P<vit>\d{1,6})\."
)
_GPTQ_PART = re.compile(rf"(?P<layer>.+)\.(?:{'|'.join(GPTQ_PARTS)})")


#: The number of a layer in a name; no name has two.
_NUMBER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.)")
_BY_ORIGINAL = {rule.name: rule for rule in RULES}
_BY_PADDLEMIX = {rule.paddlemix: rule for rule in RULES}


def common_prefix(names: Iterable[str]) -> str:
    """The wrappers' prefixes that all of these names bear, in a row; "" if one of them bears none."""
    rest, prefix = list(names), ""
    for _ in range(_MAX_WRAPPERS if rest else 0):
        found = next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in rest)), None)
        if found is None:
            break
        rest, prefix = [name[len(found) :] for name in rest], prefix + found
    return prefix


def find_rule(name: str, layout: str) -> tuple[Rule, str] | None:
    """The rule of a tensor called ``name`` in ``layout`` and its layer number ("" if it has none); None if unknown."""
    number = _NUMBER.search(name)
    template = name if number is None else f"{name[: number.start()]}{{n}}{name[number.end() :]}"
    rule = (_BY_PADDLEMIX if layout == PADDLEMIX else _BY_ORIGINAL).get(template)
    if rule is None or (rule.repeat is None) != (number is None):
        return None
    return rule, number[0] if number else ""


def our_name(name: str, layout: str) -> str | None:
    """``name`` as it is called in a ``layout`` checkpoint -> the name of our parameter; None if there is none."""
    found = find_rule(name, layout)
    return found and found[0].name.replace("{n}", found[1])


def gptq_weight(name: str) -> str | None:
    """The name of the weight that a GPTQ tensor called ``name`` is a part of; None if it is no such part."""
    match = _GPTQ_PART.fullmatch(name)
    return our_name(f"{match['layer']}.weight", HF) if match else None


def name_in(layout: str, ours: str) -> str | None:
    """The name of our parameter -> what a ``layout`` checkpoint calls it; None if there is none."""
    found = find_rule(ours, PADDLE)
    if found is None:
        return None
    rule, number = found
    return (rule.paddlemix if layout == PADDLEMIX else rule.name).replace("{n}", number)


def is_transposed(ours: str, source: str, target: str) -> bool:
    """Whether our parameter ``ours`` has to be transposed on its way from layout ``source`` to layout ``target``."""
    found = find_rule(ours, PADDLE)
    return found is not None and found[0].linear and (source == HF) != (target == HF)


def _field(config: Any, name: str, default: Any | None = None) -> Any:
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    if value is None:
        value = default
    if value is None:
        raise ConfigurationError(f"config: field {name!r} is missing; it is needed to know the shapes of the weights")
    return value


def _size(config: Any, name: str, default: int | None = None, *, most: int = MAX_SIZE, section: str = "") -> int:
    value = _field(config, name, default)
    if type(value) is not int or not 1 <= value <= most:
        came = value if type(value) is int and abs(value) < 10**20 else quoted(str(value)[:1000])
        raise ConfigurationError(f"config: {section}{name} is {came}, expected an integer of 1 to {most}")
    return value


def dimensions(config: Any) -> dict[str, int]:
    """Every named dimension of :data:`RULES`, from a ``config.json`` as a dict or from an object with its fields.

    Raises:
        ConfigurationError: a field is missing, or no size that a weight can have.
    """
    visual = _field(config, "visual")
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    width, out, queries = (
        _size(visual, "width", section="visual."),
        _size(visual, "output_dim", section="visual."),
        _size(visual, "n_queries", 256, section="visual."),
    )
    attention = _size(config, "kv_channels", max(1, hidden // heads)) * heads
    ratio = _field(visual, "mlp_ratio")
    if type(ratio) not in (int, float) or not 0 < ratio <= MAX_SIZE:
        raise ConfigurationError(f"config: visual.mlp_ratio is {quoted(str(ratio)[:1000])}, expected a positive number")
    return {
        "vocab": _size(config, "vocab_size"),
        "hidden": hidden,
        "layers": _size(config, "num_hidden_layers", most=MAX_LAYERS),
        "attention": attention,
        "qkv": 3 * attention,
        "ffn": _size(config, "intermediate_size") // 2,  # the field counts gate and up together
        "rgb": 3,
        "patch": _size(visual, "patch_size", section="visual."),
        "vit": width,
        "vit_layers": _size(visual, "layers", most=MAX_LAYERS, section="visual."),
        "vit_qkv": 3 * width,
        "vit_ffn": int(width * ratio),
        "positions": _size(visual, "num_positions", 256, section="visual."),
        "queries": queries,
        "out": out,
        "out_qkv": 3 * out,
    }


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """How many layers tensors of these names are of, of any layout and quantized or not: of the dimensions "layers" and
    "vit_layers" of :func:`dimensions`."""
    numbers: dict[str, set[str]] = {"layers": set(), "vit_layers": set()}
    for name in names:
        found = _LAYER.match(name)
        if found:
            numbers["vit_layers" if found["vit"] else "layers"].add(found["vit"] or found["n"])
    return {dimension: len(found) for dimension, found in numbers.items()}


def expected_shapes(config: Any, layout: str = PADDLE) -> dict[str, Shape]:
    """Names and shapes of all weights of a model with ``config``, in ``layout``, in the order of the model."""
    sizes = dimensions(config)
    with_bias = not _field(config, "no_bias", True)
    shapes: dict[str, Shape] = {}
    for rules in _grouped():
        for n in range(sizes[rules[0].repeat]) if rules[0].repeat else [0]:
            for rule in rules:
                if rule.optional_bias and not with_bias:
                    continue
                shape = tuple(sizes[dim] for dim in rule.shape)
                name = rule.paddlemix if layout == PADDLEMIX else rule.name
                shapes[name.replace("{n}", str(n))] = shape[::-1] if rule.linear and layout == HF else shape
    return shapes


def _grouped() -> Iterator[tuple[Rule, ...]]:
    """The rules, those of one repeated layer together, so that shards hold whole layers."""
    group: tuple[Rule, ...] = ()
    for rule in RULES:
        if group and (rule.repeat is None or rule.repeat != group[-1].repeat):
            yield group
            group = ()
        group += (rule,)
    yield group


def parameter_count(config: Any) -> int:
    """Number of weights of a model with ``config``."""
    total = 0
    for shape in expected_shapes(config).values():
        size = 1
        for dim in shape:
            size *= dim
        total += size
    return total


def recognize(shapes: Mapping[str, Shape], marker: str | None = None, where: str = "checkpoint") -> str:
    """Which layout a checkpoint has, from its names and shapes and, if it is one of ours, from its marker.

    Raises :class:`CheckpointError` for other models and where the evidence disagrees.
    """
    if marker is not None and marker not in (HF, PADDLE):
        raise CheckpointError(f"{where}: metadata {MARKER}={quoted(marker)} is unknown, expected {HF!r} or {PADDLE!r}")
    paddlemix = any(our_name(name, PADDLEMIX) and not our_name(name, PADDLE) for name in shapes)
    original = any(our_name(name, PADDLE) and not our_name(name, PADDLEMIX) for name in shapes)
    if paddlemix == original:
        reason = "names of two layouts are mixed" if paddlemix else f"no weight has a name of Qwen-VL{_example(shapes)}"
        raise CheckpointError(f"{where}: not a Qwen-VL checkpoint: {reason}; expected e.g. 'transformer.wte.weight'")
    layout = PADDLEMIX if paddlemix else _orientation(shapes, "transformer.h.")
    if paddlemix and _orientation(shapes, "transformer.llm.h.") == HF:
        raise CheckpointError(f"{where}: PaddleMIX names, but c_attn is [out, in] as in torch: refusing to guess")
    if marker is not None and layout is not None and marker != layout:
        raise CheckpointError(f"{where}: metadata says layout {marker!r}, but c_attn has the shape of {layout!r}")
    layout = layout or marker
    if layout is None and any(map(gptq_weight, shapes)):
        layout = HF  # only torch's tools write GPTQ
    if layout is None:
        raise CheckpointError(
            f"{where}: cannot tell whether Linear weights are [in, out] or [out, in]: there is no "
            "transformer.h.N.attn.c_attn weight with its bias and no marker; is this one shard of several?"
        )
    return layout


def _example(names: Iterable[str]) -> str:
    unknown = next((name for name in names if not HARMLESS.search(name)), None)
    return f", one is called {quoted(unknown)}" if unknown is not None else ""


def _orientation(shapes: Mapping[str, Shape], prefix: str) -> str | None:
    """HF or PADDLE from a c_attn weight ([3a, h] or [h, 3a]) beside its bias [3a]; None where neither decides."""
    for name, shape in shapes.items():
        bias = shapes.get(name[: -len("weight")] + "bias")
        if name.startswith(prefix) and name.endswith(".attn.c_attn.weight") and bias and len(shape) == 2:
            if shape[0] != shape[1] and bias[0] in shape:
                return HF if shape[0] == bias[0] else PADDLE
    return None
