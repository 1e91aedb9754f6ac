"""What adapters are called on disk: by ``peft``, whose layout is ours, and by PaddleNLP, which is read.

=========  ==============================================  =============  ========================================
tool       tensors                                         orientation    files
=========  ==============================================  =============  ========================================
peft       ``base_model.model.LAYER.lora_A.weight``        ``[r, in]``    ``adapter_model.safetensors`` or ``.bin``,
           ``base_model.model.LAYER.lora_B.weight``        ``[out, r]``   ``adapter_config.json``
PaddleNLP  ``LAYER.lora_A``, in PaddleMIX's names          ``[in, r]``    ``lora_model_state.pdparams``,
           ``LAYER.lora_B``                                ``[r, out]``   ``lora_config.json``
=========  ==============================================  =============  ========================================

Layers that are trained whole have their parameters' names, in the orientation of the tool.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoint import layouts
from ..checkpoint.layouts import WeightTable
from ..checkpoint.readers import raise_listed
from ..checkpoint.readers.tensor import StoredTensor
from ..errors import AdapterError, ConfigurationError
from ..utils import parameter_names as naming
from ..utils.display import NAME_LIMIT, escape_controls, quoted, shorten
from .config import LoRAConfig

PREFIX = "base_model.model."
_PEFT_PAIR = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_PADDLENLP_PAIR = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])")
#: how the whole layers of a wrapped model are called inside ``peft``, and in files of its earliest versions
_WRAPPED = re.compile(r"\.(?:modules_to_save(?:\.default)?|original_module)(?=\.)")

#: Settings that change nothing in what an adapter computes, once its tensors are there. All others must be unset.
#: The last lines are of training alone: of LoRA+, of how the first values were found, and of ms-swift.
_PEFT_HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config",
    "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "modules_to_save", "use_rslora", "ensure_weight_tying", "megatron_core", "qalora_group_size",
    "loraplus_lr_ratio", "loraplus_lr_embedding", "loraplus_weight_decay", "lorap_lr_ratio", "lorap_emb_lr",
    "eva_config", "corda_config", "loftq_config", "lora_ga_config", "velora_config", "merge_weights", "model_type",
    "lora_dtype",
})  # fmt: skip
_PADDLENLP_HARMLESS = frozenset({
    "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules", "trainable_modules", "dtype",
    "head_dim", "rslora", "lora_plus_scale", "use_quick_lora", "merge_weights", "scaling",
})  # fmt: skip
#: Of others, the values with which they change nothing either.
_PEFT_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "swift_type": ("LORA",),
    "bias": ("none",),
    # the initial values of other kinds are taken out of the base model's weights, which must then be changed as well
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),
}
#: why a setting is not supported
_REASONS: Mapping[str, str] = {
    "bias": "trained biases are not read",
    "lora_bias": "trained biases are not read",
    "init_lora_weights": "it changes the base model's weights; convert it to a plain LoRA with peft, see "
    "path_initial_model_for_weight_conversion",
    "use_dora": "it scales the sums as well",
    "rank_pattern": "layers of different ranks are not read",
    "alpha_pattern": "layers of different scales are not read",
    "fan_in_fan_out": "no layer is stored that way",
    "layer_replication": "it repeats layers of the base model",
    "trainable_token_indices": "single rows of an embedding are not read",
    "target_parameters": "adapters of parameters outside of layers are not read",
    "alora_invocation_tokens": "it acts on a part of the text only",
    "enable_lora": "it adapts parts of a layer",
    "use_merged_linear": "it adapts parts of a layer",
    "peft_type": "the adapter is none of LoRA",
    "swift_type": "the adapter is none of LoRA",
}
_PADDLENLP_PLAIN: Mapping[str, tuple[Any, ...]] = {"tensor_parallel_degree": (-1, 1)}


@dataclass(frozen=True)
class AdapterTensors:
    """The tensors of an adapter, named and oriented as in our models, unread.

    Attributes:
        table: the weights of the family that the adapter is for.
        pairs: layer -> A ``[in, r]`` and B ``[r, out]``.
        whole: parameter -> its values.
    """

    table: WeightTable
    pairs: dict[str, tuple[StoredTensor, StoredTensor]]
    whole: dict[str, StoredTensor]


def config_from_peft(settings: Mapping[str, Any], where: str) -> LoRAConfig:
    """``adapter_config.json`` as our settings.

    Raises:
        AdapterError: a setting that would be computed in another way.
    """
    same = {f"{name}_pattern": settings.get(field, 8) for name, field in (("rank", "r"), ("alpha", "lora_alpha"))}
    patterned = [name for name, value in same.items() if _is_pattern_of(settings.get(name), value)]
    _require_plain(settings, _PEFT_HARMLESS | {*patterned}, _PEFT_PLAIN, where)
    return _config(
        where,
        r=settings.get("r", 8),
        alpha=settings.get("lora_alpha", 8),
        dropout=settings.get("lora_dropout", 0.0),
        targets=_patterns(settings.get("target_modules")),
        modules_to_save=_patterns(settings.get("modules_to_save")),
        use_rslora=bool(settings.get("use_rslora", False)),
    )


def config_from_paddlenlp(settings: Mapping[str, Any], where: str) -> LoRAConfig:
    """``lora_config.json`` as our settings, without targets, which PaddleNLP writes as regular expressions."""
    _require_plain(settings, _PADDLENLP_HARMLESS, _PADDLENLP_PLAIN, where)
    return _config(
        where,
        r=settings.get("r", 8),
        alpha=settings.get("lora_alpha", 8),
        dropout=settings.get("lora_dropout", 0.0),
        targets=(),
        use_rslora=bool(settings.get("rslora", False)),
    )


def config_to_peft(
    config: LoRAConfig, targets: Sequence[str], saved: Sequence[str], base_name: str | None
) -> dict[str, Any]:
    """``adapter_config.json``: only fields that ``peft`` has had since 0.4, so that every version reads it."""
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(targets),
        "modules_to_save": list(saved) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    return {**settings, "use_rslora": True} if config.use_rslora else settings


def peft_targets(targets: Sequence[str], layers: Iterable[str], linears: Iterable[str]) -> list[str]:
    """``targets`` where ``peft`` finds the same ``layers`` by them among all ``linears``; else the layers' names."""
    found = {name for name in linears if any(name == target or name.endswith(f".{target}") for target in targets)}
    as_given = found == set(layers) and not any(map(naming.is_glob, targets))
    return list(targets) if as_given else sorted(layers)


def tensors_to_peft(tensors: AdapterTensors) -> dict[str, tuple[StoredTensor, bool]]:
    """Names for ``adapter_model.safetensors`` -> our tensor, and whether it is to be transposed."""
    result = {}
    for layer, (a, b) in tensors.pairs.items():
        result[f"{PREFIX}{layer}.lora_A.weight"] = a, True
        result[f"{PREFIX}{layer}.lora_B.weight"] = b, True
    for name, values in tensors.whole.items():
        result[PREFIX + name] = values, tensors.table.is_transposed(name, layouts.PADDLE, layouts.HF)
    return result


def tensors_from_peft(tensors: Mapping[str, StoredTensor], where: str, table: WeightTable) -> AdapterTensors:
    """The tensors of ``adapter_model.*``.

    Raises:
        AdapterError: with all that are none of an adapter.
    """
    halves: dict[str, dict[str, StoredTensor]] = {}
    whole: dict[str, StoredTensor] = {}
    problems = []
    for theirs, tensor in tensors.items():
        name = theirs.removeprefix(PREFIX)
        pair = _PEFT_PAIR.fullmatch(name)
        parameter = _WRAPPED.sub("", name)
        if pair is not None:
            halves.setdefault(pair["layer"], {})[pair["part"]] = _transposed(tensor)
        elif table.find_rule(parameter, layouts.HF) is not None:
            turned = table.is_transposed(parameter, layouts.HF, layouts.PADDLE)
            whole[parameter] = _transposed(tensor) if turned else tensor
        else:
            problems.append(f"{quoted(theirs)} is not understood")
    return AdapterTensors(table, _pairs(halves, problems, where), whole)


def tensors_from_paddlenlp(tensors: Mapping[str, StoredTensor], where: str, table: WeightTable) -> AdapterTensors:
    """The tensors of ``lora_model_state.pdparams``.

    Raises:
        AdapterError: with all that are none of an adapter.
    """
    halves: dict[str, dict[str, StoredTensor]] = {}
    whole: dict[str, StoredTensor] = {}
    problems = []
    for theirs, tensor in tensors.items():
        pair = _PADDLENLP_PAIR.fullmatch(theirs)
        parameter = table.our_name(f"{pair['layer']}.weight" if pair else theirs, layouts.PADDLEMIX)
        if parameter is None:
            problems.append(f"{quoted(theirs)} is not understood")
        elif pair is not None:
            halves.setdefault(parameter[: -len(".weight")], {})[pair["part"]] = tensor
        else:
            whole[parameter] = tensor
    return AdapterTensors(table, _pairs(halves, problems, where), whole)


def _pairs(
    halves: Mapping[str, Mapping[str, StoredTensor]], problems: list[str], where: str
) -> dict[str, tuple[StoredTensor, StoredTensor]]:
    for layer, parts in halves.items():
        if set(parts) != {"A", "B"}:
            problems.append(f"{quoted(layer)} has lora_{min(parts)} without its other half")
        elif any(len(part.shape) != 2 for part in parts.values()) or parts["A"].shape[1] != parts["B"].shape[0]:
            problems.append(f"{quoted(layer)} has matrices of {list(parts['A'].shape)} and {list(parts['B'].shape)}")
    raise_listed(where, problems, AdapterError)
    return {layer: (parts["A"], parts["B"]) for layer, parts in halves.items()}


def _transposed(tensor: StoredTensor) -> StoredTensor:
    return dataclasses.replace(tensor, shape=tensor.shape[::-1], load=lambda: tensor.load().T, offset=None)


def _is_pattern_of(pattern: Any, value: Any) -> bool:
    """Whether a pattern gives all of its layers what they have anyway."""
    return isinstance(pattern, Mapping) and all(given == value for given in pattern.values())


def _require_plain(
    settings: Mapping[str, Any], harmless: frozenset[str], plain: Mapping[str, tuple[Any, ...]], where: str
) -> None:
    """Raise AdapterError for a setting that would be computed in another way. What is unset, and other tools' private
    notes, whose names begin with an underscore, are passed over.
    """
    for name, value in settings.items():
        if name in harmless or name.startswith("_") or not value or value in plain.get(name, ()):
            continue
        wanted = " or ".join(map(repr, plain.get(name, ()))) or "nothing"
        reason = _REASONS.get(name, "what it means for the computation is not known")
        shown = escape_controls(shorten(name, NAME_LIMIT)), shorten(repr(value), NAME_LIMIT)
        raise AdapterError(f"{where}: {shown[0]}: got {shown[1]}, only {wanted} is supported: {reason}")


def _patterns(value: Any) -> tuple[str, ...]:
    """A list of names; a single text is a regular expression, by which nothing is looked for."""
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _config(where: str, **settings: Any) -> LoRAConfig:
    try:
        return LoRAConfig(**settings)
    except ConfigurationError as error:
        raise AdapterError(f"{where}: {error}") from error
