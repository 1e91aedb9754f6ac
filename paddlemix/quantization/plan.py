"""Which weights of a model are stored in which format, and the ``quantization_config`` that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..checkpoint import dtypes
from ..checkpoint.layouts import WeightTable
from ..checkpoint.shards import Shard
from ..errors import ConfigurationError
from ..utils.schema import shown

#: what a user may ask for
QUANTIZATIONS = ("int8", "int4", "bf16", "nf4")
VISION_QUANTIZATIONS = ("int8", "bf16")

#: formats of linear weights; the 16-bit ones are called by their dtype
INT4, INT8, NF4 = "int4", "int8", "nf4"
SIXTEEN_BIT = ("bfloat16", "float16")
FORMATS = (INT4, INT8, NF4, *SIXTEEN_BIT)

#: ``quant_method`` and ``version`` of checkpoints that hold our tiles
METHOD, VERSION = "paddlemix", 1
GPTQ_METHOD = "gptq"
BNB_METHOD = "bitsandbytes"

TILE = 16
"""Outputs in a tile of packed weights."""
GROUP = 128
"""Inputs that share a scale in int4, and the multiple to which weights of 4 and 8 bits are padded."""
NF4_BLOCK = 64
"""Inputs that share a scale in nf4."""
SIXTEEN_BIT_PADDING = 32


@dataclass(frozen=True)
class QuantizationPlan:
    """Formats of the decoder's linear layers, of the language-model head, of the linear layers of the ViT and the
    resampler, and of the token embeddings (16 bits). Norms, biases, positions and the first convolution keep the
    model's dtype.
    """

    blocks: str
    head: str
    visual: str
    embeddings: str

    def format_of(self, name: str, table: WeightTable) -> str | None:
        """The format of a weight; None: it keeps the model's dtype.

        Args:
            name: of the weight in our layout.
            table: the weights of the model's family.
        """
        found = table.find_rule(name)
        return None if found is None or found[0].part is None else getattr(self, found[0].part)

    def to_config(self) -> dict[str, Any]:
        """The ``quantization_config`` of a checkpoint whose weights are in these formats."""
        return {"quant_method": METHOD, "version": VERSION, "group_size": GROUP, **asdict(self)}

    def __str__(self) -> str:
        return ", ".join(f"{part} {kind}" for part, kind in asdict(self).items())


def check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raise ConfigurationError unless ``value`` is None or one of ``choices``."""
    if value is not None and value not in choices:
        raise ConfigurationError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")


def check_options(quantization: str | None, vision_quantization: str | None) -> None:
    """Raise ConfigurationError for values that no model can take."""
    check_choice("quantization", quantization, QUANTIZATIONS)
    check_choice("vision_quantization", vision_quantization, VISION_QUANTIZATIONS)


def plan_for(
    section: Mapping[str, Any] | None,
    quantization: str | None,
    vision_quantization: str | None,
    *,
    sixteen_bit: str = "bfloat16",
    exact: bool = True,
) -> QuantizationPlan | None:
    """The formats of a model; None: nothing is quantized.

    Args:
        section: the checkpoint's ``quantization_config``.
        quantization, vision_quantization: what the user asks for, of ``QUANTIZATIONS`` and ``VISION_QUANTIZATIONS``.
        sixteen_bit: dtype that "bf16" stands for: float16 for a checkpoint in float16, so that nothing is rounded.
        exact: whether GPTQ layers fit our int4, or those of bitsandbytes our nf4, as they are; if not, they are kept in
            16 bits.

    Raises:
        ConfigurationError: unknown values, a section that is not understood, another quantization than the one that
            the checkpoint has.
    """
    check_options(quantization, vision_quantization)
    method = quant_method(section)
    if section is not None and method == METHOD:
        return _as_stored(section, quantization, vision_quantization)
    if method is None and quantization is None:
        if vision_quantization is not None:
            raise ConfigurationError(
                f"vision_quantization: got {vision_quantization!r} without quantization; "
                f"give that as well, one of {', '.join(QUANTIZATIONS)}"
            )
        return None
    formats = {"bf16": sixteen_bit, "int8": INT8, "int4": INT4, "nf4": NF4}
    visual = None if vision_quantization is None else formats[vision_quantization]
    stored = {GPTQ_METHOD: INT4, BNB_METHOD: NF4}.get(method or "")
    if quantization is None:  # as published
        plan = QuantizationPlan(stored or sixteen_bit, sixteen_bit, visual or sixteen_bit, sixteen_bit)
    else:
        others = formats["int8" if quantization in (INT4, NF4) else quantization]
        plan = QuantizationPlan(formats[quantization], others, visual or others, sixteen_bit)
    if plan.blocks == stored and not exact:
        return QuantizationPlan(sixteen_bit, plan.head, plan.visual, plan.embeddings)
    return plan


def quant_method(section: Mapping[str, Any] | None) -> str | None:
    """How a checkpoint with this ``quantization_config`` is quantized: None, "gptq", "bitsandbytes" or "paddlemix".

    Raises:
        ConfigurationError: another method, or settings of these that cannot be read.
    """
    if section is not None and not isinstance(section, Mapping):
        raise ConfigurationError(f"quantization_config: expected a dict of its fields, got {shown(section)}")
    section = section or {}
    method = section.get("quant_method")
    if method is None and section.get("bits") is not None:
        method = GPTQ_METHOD  # what AutoGPTQ itself wrote before others gave methods a name
    if method is None:
        return None
    if method == GPTQ_METHOD:
        _require(section, "bits", 4)
        _require(section, "checkpoint_format", None, "gptq")
        return method
    if method == BNB_METHOD:
        _require(section, "load_in_4bit", True)
        _require(section, "bnb_4bit_quant_type", "nf4")
        _require(section, "bnb_4bit_quant_storage", None, "uint8")
        return method
    if method != METHOD:
        raise ConfigurationError(
            f"quantization_config.quant_method: {shown(method)} checkpoints are not supported, expected one of "
            f"{GPTQ_METHOD}, {BNB_METHOD}, {METHOD}; use the unquantized weights with quantization="
        )
    _require(section, "version", VERSION)
    _require(section, "group_size", GROUP)
    return method


def _as_stored(
    section: Mapping[str, Any], quantization: str | None, vision_quantization: str | None
) -> QuantizationPlan:
    parts: dict[str, Any] = {name: section.get(name) for name in QuantizationPlan.__dataclass_fields__}
    for name, kind in parts.items():
        known = SIXTEEN_BIT if name == "embeddings" else FORMATS
        if kind not in known:
            raise ConfigurationError(
                f"quantization_config.{name}: got {shown(kind)}, expected one of {', '.join(known)}"
            )
    plan = QuantizationPlan(**parts)
    if quantization is not None or vision_quantization is not None:
        asked = plan_for(None, quantization or _name_of(plan), vision_quantization, sixteen_bit=plan.embeddings)
        if vision_quantization is None and asked is not None:
            asked = QuantizationPlan(**{**asdict(asked), "visual": plan.visual})
        if asked != plan:
            given = f"quantization: got {quantization!r}, vision_quantization: got {vision_quantization!r}"
            raise ConfigurationError(f"{given}, but the checkpoint is quantized already ({plan}); leave them out")
    return plan


def _name_of(plan: QuantizationPlan) -> str:
    return "bf16" if plan.blocks in SIXTEEN_BIT else plan.blocks


def _require(section: Mapping[str, Any], name: str, *allowed: Any) -> None:
    if section.get(name) not in allowed:
        supported = " or ".join(repr(value) for value in allowed if value is not None)
        came = shown(section.get(name))
        raise ConfigurationError(f"quantization_config.{name}: got {came}, only {supported} is supported")


# ---------------------------------------------------------------------------------------------------- sizes


def padded_inputs(kind: str, in_features: int) -> int:
    """Inputs of the packed weight, the padding with zeros included."""
    multiple = SIXTEEN_BIT_PADDING if kind in SIXTEEN_BIT else GROUP
    return -(-in_features // multiple) * multiple


def tile_arrays(kind: str, in_features: int, out_features: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of the arrays of a packed weight ``[in_features, out_features]``, by name.

    The layout is that of ``external_ops/cpu/paddlemix_cpu.h``: tiles of 16 outputs, the last axes one line of 64 bytes.

    Returns:
        ``qweight``; of low-bit formats ``scales``; of nf4 ``nested`` too, what its scales are scaled by.
    """
    tiles, padded = -(-out_features // TILE), padded_inputs(kind, in_features)
    if kind in SIXTEEN_BIT:
        return {"qweight": ((tiles, padded // 2, TILE, 2), kind)}
    if kind == INT8:
        return {"qweight": ((tiles, padded // 4, TILE, 4), "uint8"), "scales": ((tiles, 1, TILE), "float32")}
    weight = ((tiles, padded // 8, TILE, 4), "uint8")
    if kind == INT4:
        return {"qweight": weight, "scales": ((tiles, padded // GROUP, TILE), "float16")}
    return {
        "qweight": weight,
        "scales": ((tiles, padded // NF4_BLOCK, TILE), "uint8"),
        "nested": ((_nested_size(tiles, in_features),), "float32"),
    }


def _nested_size(tiles: int, in_features: int) -> int:
    """Of nf4: an offset, 256 values and a factor for 256 scales each, padded to lines of 64 bytes."""
    scales = tiles * TILE * -(-in_features // NF4_BLOCK)
    return -(-(1 + 256 + -(-scales // 256)) // 16) * 16


def weight_bytes(
    table: WeightTable,
    config: Any,
    dtype: str,
    plan: QuantizationPlan | None = None,
    shards: Mapping[str, Shard] | None = None,
) -> int:
    """Bytes of all weights of a model in memory; arguments are those of :func:`weight_sizes`."""
    return sum(weight_sizes(table, config, dtype, plan, shards).values())


def weight_sizes(
    table: WeightTable,
    config: Any,
    dtype: str,
    plan: QuantizationPlan | None = None,
    shards: Mapping[str, Shard] | None = None,
) -> dict[str, int]:
    """Bytes of each weight of a model in memory, by its name in our layout.

    Args:
        table: the weights of the model's family.
        config: the model's configuration.
        dtype: of the weights that ``plan`` leaves alone.
        plan: the formats of the others; None: nothing is quantized.
        shards: of the weights that this process has only a part of.
    """
    sizes = {}
    for name, whole in table.expected_shapes(config).items():
        shape = shards[name].shape if shards and name in shards else whole
        kind = plan.format_of(name, table) if plan is not None else None
        if kind is None:
            sizes[name] = _bytes(shape, dtype)
        elif name == table.embedding:
            sizes[name] = _bytes(shape, kind)
        else:
            in_features, out_features = shape
            sizes[name] = sum(_bytes(*array) for array in tile_arrays(kind, in_features, out_features).values())
    return sizes


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    count = dtypes.STORAGE[dtype].itemsize
    for dim in shape:
        count *= dim
    return count
