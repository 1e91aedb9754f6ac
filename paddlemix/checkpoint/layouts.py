"""Layouts of checkpoints: what the weights of a model are called, and how they lie, in each of the three that exist.

================  ==============================  =====================  ===========================
layout            names                           Linear weights         found in
================  ==============================  =====================  ===========================
``hf``            the original's                  ``[out, in]`` (torch)  ``.bin``, ``.safetensors``
``paddle``        the original's                  ``[in, out]``          our ``.safetensors``
``paddlemix``     PaddleMIX's                     ``[in, out]``          ``.pdparams``
================  ==============================  =====================  ===========================

Quantized checkpoints are of these layouts too: GPTQ's of ``hf``, with ``.qweight`` and its companions in place of some
``.weight``; those of bitsandbytes of ``hf``, with companions ``.weight.absmax`` and so on; our own of ``paddle``, with
packed tiles (:mod:`paddlemix.quantization`).

A family of models states its weights once, as a :class:`WeightTable` of :class:`Rule`; conversion, loading, checks,
quantization and adapters follow from it. A square Linear has the same shape in every layout, so a layout is told from
names, from our own marker and from one weight that is never square; shapes of square weights decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import CheckpointError, ConfigurationError
from ..utils.display import quoted

HF, PADDLE, PADDLEMIX = "hf", "paddle", "paddlemix"
LAYOUTS = (HF, PADDLE, PADDLEMIX)
#: key of the marker in the metadata of the safetensors files that we write
MARKER = "paddlemix_layout"
#: the same for files whose linear weights are quantized tiles, and the version of their layout
PACKING_MARKER, PACKING = "paddlemix_packing", "1"

#: Keys that some tools save although they are computed, not learned; they are passed over wherever they occur.
HARMLESS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|inv_freq|attn\.masked_bias)$")
#: What wrappers of a model write before its names: of torch in parallel, compiled or sharded, and of adapters.
WRAPPERS = (
    "module.", "_orig_mod.", "base_model.model.", "_fsdp_wrapped_module.", "_forward_module.", "model.",
)  # fmt: skip
_MAX_WRAPPERS = 8
#: How tensors of a GPTQ layer are called, in place of ``.weight``.
GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_GPTQ_PART = re.compile(rf"(?P<layer>.+)\.(?:{'|'.join(GPTQ_PARTS)})")
#: What bitsandbytes appends to the name of a weight in 4 bits, for the tensor that says how it is quantized.
BNB_STATE = re.compile(r"(?P<weight>.+\.weight)\.quant_state\.bitsandbytes__\w{1,16}")
#: more layers than any model has, and few enough to list the names of their weights
MAX_LAYERS = 1024
MAX_SIZE = 1 << 40
#: The number of a layer in a name; no name has two.
_NUMBER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.)")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """One weight, or one weight per layer where the names hold ``{n}``.

    Attributes:
        name: in the layouts ``hf`` and ``paddle``, as in our models.
        paddlemix: in the layout ``paddlemix``.
        shape: that of the layout ``paddle``, in the dimensions of the table.
        linear: the layout ``hf`` has the transpose.
        repeat: the dimension that counts the layers.
        optional_bias: exists only in models whose configuration has biases everywhere.
        part: the part of a quantized model whose format the weight gets, a field of
            :class:`~paddlemix.quantization.plan.QuantizationPlan`; None: it keeps the model's dtype.
        quantized_layers: the layers that hold it in a quantized model, side by side, where that is not the layer of its
            own name.
        constant: never trained, although checkpoints have it.
    """

    name: str
    paddlemix: str
    shape: tuple[str, ...]
    linear: bool = False
    repeat: str | None = None
    optional_bias: bool = False
    part: str | None = None
    quantized_layers: tuple[str, ...] = ()
    constant: bool = False


@dataclass(frozen=True)
class Split:
    """A dimension that is divided among the processes of a tensor parallel model.

    Attributes:
        unit: the dimension that counts what it consists of and what is never cut, such as heads.
        repeat: how often all units follow each other in it.
    """

    unit: str
    repeat: int = 1


@dataclass(frozen=True, eq=False)
class WeightTable:
    """The weights of a family of models.

    Attributes:
        family: the family's name, for messages.
        rules: all weights, those of one repeated layer together, in the order of the model.
        dimensions: sizes of all dimensions that the rules name, from a ``config.json`` as a dict or from an object with
            its fields; ``"optional_biases"`` among them is 1 where weights with ``optional_bias`` exist. Raises
            ConfigurationError for a field that is missing, or no size that a weight can have.
        layer_fields: dimension that counts layers -> the field of the configuration that says how many.
        orientation: the rule's name of a linear weight that is never square and always has a bias; from both together
            it is told whether linear weights are ``[in, out]`` or ``[out, in]``.
        embedding: name of the token embeddings.
        fingerprint: names of rules whose weights no layout, quantization or adapter changes; they identify a model.
        splits: dimensions that a tensor parallel model divides among its processes.
    """

    family: str
    rules: tuple[Rule, ...]
    dimensions: Callable[[Any], dict[str, int]]
    layer_fields: Mapping[str, str]
    orientation: str
    embedding: str
    fingerprint: frozenset[str]
    splits: Mapping[str, Split] = field(default_factory=dict)

    @cached_property
    def _by_name(self) -> dict[str, dict[str, Rule]]:
        original = {rule.name: rule for rule in self.rules}
        return {HF: original, PADDLE: original, PADDLEMIX: {rule.paddlemix: rule for rule in self.rules}}

    @cached_property
    def _layer_prefixes(self) -> dict[str, re.Pattern[str]]:
        """Dimension that counts layers -> what names of tensors of these layers begin with, in any layout."""
        result = {}
        for dimension in self.layer_fields:
            templates = {name for r in self.rules if r.repeat == dimension for name in (r.name, r.paddlemix)}
            prefixes = sorted({re.escape(template.split("{n}")[0]) for template in templates})
            result[dimension] = re.compile(rf"(?:{'|'.join(prefixes)})(\d{{1,6}})\.")
        return result

    def find_rule(self, name: str, layout: str = PADDLE) -> tuple[Rule, str] | None:
        """The rule of a tensor and the number of its layer.

        Args:
            name: what a checkpoint of ``layout`` calls the tensor.

        Returns:
            The rule and the number, "" where it has none; None for a tensor that is no weight of the family.
        """
        number = _NUMBER.search(name)
        template = name if number is None else f"{name[: number.start()]}{{n}}{name[number.end() :]}"
        rule = self._by_name[layout].get(template)
        if rule is None or (rule.repeat is None) != (number is None):
            return None
        return rule, number[0] if number else ""

    def our_name(self, name: str, layout: str) -> str | None:
        """The name of our parameter for what a ``layout`` checkpoint calls ``name``; None if there is none."""
        found = self.find_rule(name, layout)
        return found and found[0].name.replace("{n}", found[1])

    def gptq_weight(self, name: str) -> str | None:
        """The name of the weight that a GPTQ tensor called ``name`` is a part of; None if it is no such part."""
        match = _GPTQ_PART.fullmatch(name)
        return self.our_name(f"{match['layer']}.weight", HF) if match else None

    def is_linear_layer(self, name: str) -> bool:
        """Whether the original has a linear layer of this name."""
        found = self.find_rule(f"{name}.weight")
        return found is not None and found[0].linear

    def is_constant(self, name: str) -> bool:
        """Whether the parameter ``name`` is a constant of the architecture, which is never trained."""
        found = self.find_rule(name)
        return found is not None and found[0].constant

    def is_transposed(self, ours: str, source: str, target: str) -> bool:
        """Whether our parameter ``ours`` has to be transposed on its way from layout ``source`` to ``target``."""
        found = self.find_rule(ours)
        return found is not None and found[0].linear and (source == HF) != (target == HF)

    def quantized_layers(self, name: str) -> tuple[str, ...]:
        """The layers of a quantized model that hold the float parameter ``name``, side by side."""
        found = self.find_rule(name)
        return (found and found[0].quantized_layers) or (name.removesuffix(".weight"),)

    def layer_counts(self, names: Iterable[str]) -> dict[str, int]:
        """How many layers tensors of these names are of: dimension that counts layers -> number.

        Args:
            names: of any layout, quantized or not.
        """
        numbers: dict[str, set[str]] = {dimension: set() for dimension in self.layer_fields}
        for name in names:
            for dimension, prefix in self._layer_prefixes.items():
                found = prefix.match(name)
                if found:
                    numbers[dimension].add(found[1])
        return {dimension: len(found) for dimension, found in numbers.items()}

    def expected_shapes(self, config: Any, layout: str = PADDLE) -> dict[str, Shape]:
        """Names and shapes of all weights of a model, in the order of the model.

        Args:
            config: a ``config.json`` as a dict, or an object with its fields.
            layout: in whose names and orientation.

        Raises:
            ConfigurationError: a field is missing, or no size that a weight can have.
        """
        sizes = self.dimensions(config)
        shapes: dict[str, Shape] = {}
        for rules in self._grouped():
            repeat = rules[0].repeat
            for n in range(sizes[repeat]) if repeat else [0]:
                for rule in rules:
                    if rule.optional_bias and not sizes["optional_biases"]:
                        continue
                    shape = tuple(sizes[dim] for dim in rule.shape)
                    name = rule.paddlemix if layout == PADDLEMIX else rule.name
                    shapes[name.replace("{n}", str(n))] = shape[::-1] if rule.linear and layout == HF else shape
        return shapes

    def _grouped(self) -> Iterator[tuple[Rule, ...]]:
        """The rules, those of one repeated layer together, so that shards hold whole layers."""
        group: tuple[Rule, ...] = ()
        for rule in self.rules:
            if group and (rule.repeat is None or rule.repeat != group[-1].repeat):
                yield group
                group = ()
            group += (rule,)
        yield group

    def recognize(self, shapes: Mapping[str, Shape], marker: str | None = None, where: str = "checkpoint") -> str:
        """Which layout a checkpoint has, from its names and shapes and, if it is one of ours, from its marker.

        Args:
            shapes: name of each tensor -> its shape.
            marker: what its metadata has under :data:`MARKER`.
            where: the checkpoint's name in messages.

        Raises:
            CheckpointError: it is of another family, or the evidence disagrees.
        """
        if marker is not None and marker not in (HF, PADDLE):
            raise CheckpointError(
                f"{where}: metadata {MARKER}={quoted(marker)} is unknown, expected {HF!r} or {PADDLE!r}"
            )
        paddlemix = any(self.our_name(name, PADDLEMIX) and not self.our_name(name, PADDLE) for name in shapes)
        original = any(self.our_name(name, PADDLE) and not self.our_name(name, PADDLEMIX) for name in shapes)
        if paddlemix == original:
            no_weight = f"no weight has a name of {self.family}{_example(shapes)}"
            reason = "names of two layouts are mixed" if paddlemix else no_weight
            raise CheckpointError(
                f"{where}: not a {self.family} checkpoint: {reason}; expected e.g. {self.embedding!r}"
            )
        layer = self.orientation.removesuffix(".weight")
        short = layer.rpartition(".")[2]
        in_paddlemix = self._by_name[PADDLE][self.orientation].paddlemix
        layout = PADDLEMIX if paddlemix else _orientation(shapes, self.orientation)
        if paddlemix and _orientation(shapes, in_paddlemix) == HF:
            raise CheckpointError(f"{where}: PaddleMIX names, but {short} is [out, in] as in torch: refusing to guess")
        if marker is not None and layout is not None and marker != layout:
            raise CheckpointError(f"{where}: metadata says layout {marker!r}, but {short} has the shape of {layout!r}")
        layout = layout or marker
        if layout is None and any(self.gptq_weight(name) or BNB_STATE.fullmatch(name) for name in shapes):
            layout = HF  # only torch's tools write these
        if layout is None:
            raise CheckpointError(
                f"{where}: cannot tell whether Linear weights are [in, out] or [out, in]: there is no "
                f"{layer.replace('{n}', 'N')} weight with its bias and no marker; is this one shard of several?"
            )
        return layout


def _example(names: Iterable[str]) -> str:
    unknown = next((name for name in names if not HARMLESS.search(name)), None)
    return f", one is called {quoted(unknown)}" if unknown is not None else ""


def _orientation(shapes: Mapping[str, Shape], template: str) -> str | None:
    """HF or PADDLE from a weight ([3a, h] or [h, 3a]) beside its bias [3a]; None where neither decides."""
    start, _, end = template.partition("{n}")
    for name, shape in shapes.items():
        bias = shapes.get(name[: -len("weight")] + "bias")
        if name.startswith(start) and name.endswith(end) and bias and len(shape) == 2:
            if shape[0] != shape[1] and bias[0] in shape:
                return HF if shape[0] == bias[0] else PADDLE
    return None


def common_prefix(names: Iterable[str]) -> str:
    """The wrappers' prefixes that all of these names bear, in a row; "" if one of them bears none."""
    rest, prefix = list(names), ""
    for _ in range(_MAX_WRAPPERS if rest else 0):
        found = next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in rest)), None)
        if found is None:
            break
        rest, prefix = [name[len(found) :] for name in rest], prefix + found
    return prefix


# ---------------------------------------------------------------------------------------------------- for tables


def config_field(config: Any, name: str, default: Any | None = None) -> Any:
    """A field of a ``config.json`` as a dict, or of an object with its fields.

    Raises:
        ConfigurationError: it is missing, and there is no default.
    """
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    if value is None:
        value = default
    if value is None:
        raise ConfigurationError(f"config: field {name!r} is missing; it is needed to know the shapes of the weights")
    return value


def config_size(config: Any, name: str, default: int | None = None, *, limit: int = MAX_SIZE, section: str = "") -> int:
    """As :func:`config_field`, for a size of weights.

    Args:
        limit: the largest value that can be.
        section: what stands before the field's name in messages.

    Raises:
        ConfigurationError: it is missing, or no integer from 1 to ``limit``.
    """
    value = config_field(config, name, default)
    if type(value) is not int or not 1 <= value <= limit:
        came = value if type(value) is int and abs(value) < 10**20 else quoted(str(value)[:1000])
        raise ConfigurationError(f"config: {section}{name} is {came}, expected an integer of 1 to {limit}")
    return value
