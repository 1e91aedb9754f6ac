"""Configuration of Qwen-VL: the published ``config.json``, read as it is.

Every field either takes effect or is refused by name; nothing is dropped in silence and no second file is looked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from paddlenlp.generation import GenerationConfig
from paddlenlp.transformers.configuration_utils import PretrainedConfig

from ...checkpoint.dtypes import KV_CACHE_DTYPES
from ...checks import check_integer
from ...errors import CheckpointError, ConfigurationError
from ...files import CONFIG_FILE, read_json_object
from ...quantization.plan import quant_method

# Fields of published files that describe the file or the tools that wrote it, and change no computation.
_DESCRIPTIVE_FIELDS = {
    "_name_or_path", "architectures", "auto_map", "model_type", "tokenizer_type", "torch_dtype", "dtype",
    "name_or_path", "transformers_version", "paddlenlp_version", "paddlemix_version",
    "llm_pretrained_model_name_or_path",
}  # fmt: skip
# Fields whose only supported value is given here: the published checkpoints hold it, another one would need other
# maths.
_FIXED_FIELDS: dict[str, tuple[Any, ...]] = {
    "rotary_pct": (1.0, 1),
    "no_bias": (True,),
    "scale_attn_weights": (True,),
    "onnx_safe": (None, False),
    "tie_word_embeddings": (False,),
}
# Choices of a faster kernel, made by ``paddlemix.ops`` from the device; the results are the same either way.
_KERNEL_FIELDS = {"use_flash_attn", "use_flash_attention", "use_fused_rms_norm", "use_fused_rope"}
# Fields of PaddleNLP's base class that take effect here, or name things without changing a computation.
_BASE_FIELDS = {
    "dtype", "return_dict", "use_cache", "recompute", "eos_token_id", "pad_token_id", "bos_token_id", "tokenizer_class",
    "id2label", "label2id", "tensor_parallel_rank", "tensor_parallel_output",
}  # fmt: skip


class QWenVLVisionConfig:
    """The ``visual`` part: a ViT followed by a cross-attention resampler.

    Args:
        image_size: side of the square input, in pixels.
        patch_size: side of one patch, in pixels; divides ``image_size``.
        width: hidden size of the ViT.
        layers: number of ViT blocks.
        heads: number of ViT attention heads; divides ``width``.
        mlp_ratio: the MLP's hidden size is ``int(width * mlp_ratio)``.
        output_dim: hidden size of the resampler, equal to the language model's ``hidden_size``.
        image_start_id: token id of ``<img>``; ``</img>`` and ``<imgpad>`` follow it.
        n_queries: number of feature vectors for one picture; a square number.
        num_positions: entries of the ViT's position table, a square number; resized bicubically where the patch grid
            differs.
    """

    def __init__(
        self,
        image_size: int = 448,
        patch_size: int = 14,
        width: int = 1664,
        layers: int = 48,
        heads: int = 16,
        mlp_ratio: float = 4.9231,
        output_dim: int = 4096,
        image_start_id: int = 151857,
        n_queries: int = 256,
        num_positions: int = 256,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ConfigurationError(f"visual: unknown field(s) {sorted(unknown)}; remove them from the configuration")
        self.image_size = image_size
        self.patch_size = patch_size
        self.width = width
        self.layers = layers
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.output_dim = output_dim
        self.image_start_id = image_start_id
        self.n_queries = n_queries
        self.num_positions = num_positions
        self._validate()

    @property
    def image_end_id(self) -> int:
        return self.image_start_id + 1

    @property
    def image_pad_id(self) -> int:
        return self.image_start_id + 2

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def resampler_heads(self) -> int:
        """The resampler's heads are 128 wide, as in the original; a narrower resampler has one head."""
        return max(self.output_dim // 128, 1)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def _validate(self) -> None:
        sizes = ("image_size", "patch_size", "width", "layers", "heads", "output_dim", "n_queries", "num_positions")
        for name in sizes:
            check_integer(f"visual.{name}", getattr(self, name))
        check_integer("visual.image_start_id", self.image_start_id, least=0)
        _check_number("visual.mlp_ratio", self.mlp_ratio, least=1 / self.width)
        for name in ("n_queries", "num_positions"):
            value = getattr(self, name)
            if round(value**0.5) ** 2 != value:
                raise ConfigurationError(f"visual.{name}: expected a square number, got {value}")
        for name, divisor in (("image_size", "patch_size"), ("width", "heads")):
            if getattr(self, name) % getattr(self, divisor):
                raise ConfigurationError(
                    f"visual.{name}: {getattr(self, name)} is not a multiple of "
                    f"visual.{divisor}={getattr(self, divisor)}"
                )
        if self.output_dim % self.resampler_heads:
            raise ConfigurationError(
                f"visual.output_dim: {self.output_dim} is not a multiple of its {self.resampler_heads} heads"
            )


class QWenVLConfig(PretrainedConfig):
    """Configuration of :class:`QWenLMHeadModel`, with the field names of the published ``config.json``.

    ``intermediate_size`` is twice the width of the feed-forward layer, as published. ``bf16``, ``fp16`` and ``fp32``
    ask for a dtype when ``from_pretrained`` is given none; at most one may be true. ``quantization_config`` says how
    the weights of a checkpoint are quantised; it is kept as ``quantization``.
    """

    model_type = "qwen"
    attribute_map: dict[str, str] = {}

    def __init__(
        self,
        vocab_size: int = 151936,
        hidden_size: int = 4096,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        kv_channels: int = 128,
        intermediate_size: int = 22016,
        max_position_embeddings: int = 8192,
        seq_length: int = 2048,
        rotary_emb_base: float = 10000,
        layer_norm_epsilon: float = 1e-6,
        initializer_range: float = 0.02,
        attn_dropout_prob: float = 0.0,
        emb_dropout_prob: float = 0.0,
        use_cache: bool = True,
        use_dynamic_ntk: bool = True,
        use_logn_attn: bool = True,
        bf16: bool = False,
        fp16: bool = False,
        fp32: bool = False,
        recompute: bool = False,
        kv_cache_dtype: str | None = None,
        visual: dict[str, Any] | QWenVLVisionConfig | None = None,
        quantization_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_extra_fields(kwargs)
        kwargs.setdefault("tie_word_embeddings", False)
        kwargs.setdefault("architectures", ["QWenLMHeadModel"])
        # PaddleNLP would otherwise record Paddle's current default dtype as if the file had asked for it.
        kwargs.setdefault("dtype", None)
        kwargs["return_dict"] = True
        super().__init__(use_cache=use_cache, **_without(kwargs, _FIXED_FIELDS, "tie_word_embeddings"))
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.kv_channels = kv_channels
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.seq_length = seq_length
        self.rotary_emb_base = rotary_emb_base
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.attn_dropout_prob = attn_dropout_prob
        self.emb_dropout_prob = emb_dropout_prob
        self.use_dynamic_ntk = use_dynamic_ntk
        self.use_logn_attn = use_logn_attn
        self.bf16 = bf16
        self.fp16 = fp16
        self.fp32 = fp32
        self.recompute = recompute
        self.kv_cache_dtype = kv_cache_dtype
        if not isinstance(visual, QWenVLVisionConfig):
            if not isinstance(visual, (dict, type(None))):
                raise ConfigurationError(f"visual: expected a dict of its fields, got {visual!r}")
            visual = QWenVLVisionConfig(**(visual or {}))
        self.visual = visual
        # Under another name: PaddleNLP has a class of its own behind quantization_config, which drops what it does not
        # know.
        self.quantization = dict(quantization_config) if quant_method(quantization_config) else None
        self._validate()

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike, **overrides: Any) -> QWenVLConfig:
        """Read ``config.json`` from a directory or a known name; ``overrides`` replace single fields.

        Raises:
            CheckpointError: the file is missing or not a JSON object.
            ConfigurationError: a field is unknown or has a value that cannot work.
        """
        from ...checkpoint.hub import resolve

        path = resolve(name_or_dir) / CONFIG_FILE
        fields = read_json_object(path)
        if fields is None:
            raise CheckpointError(f"{path}: missing; a model directory holds its configuration in {CONFIG_FILE}")
        return cls(**{**fields, **overrides})

    def to_dict(self, saving_file: bool = False) -> dict[str, Any]:
        """The fields as JSON-ready values; ``visual`` becomes a dict again."""
        fields = super().to_dict(saving_file)
        if isinstance(fields.get("visual"), QWenVLVisionConfig):
            fields["visual"] = fields["visual"].to_dict()
        return self._with_quantization(fields)

    def to_diff_dict(self, saving_file: bool = False) -> dict[str, Any]:
        """The fields that differ from their defaults: what is written to ``config.json``.

        Without ``kv_cache_dtype``, which suits a machine and not the weights.
        """
        fields = self._with_quantization(super().to_diff_dict(saving_file))
        fields.pop("kv_cache_dtype", None)
        return fields

    def _with_quantization(self, fields: dict[str, Any]) -> dict[str, Any]:
        fields.pop("quantization", None)
        fields.pop("quantization_config", None)
        return {**fields, "quantization_config": dict(self.quantization)} if self.quantization else fields

    def _validate(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "kv_channels",
            "intermediate_size",
            "max_position_embeddings",
        ):
            check_integer(name, getattr(self, name))
        check_integer("seq_length", self.seq_length, least=2)  # its logarithm divides
        _check_number("rotary_emb_base", self.rotary_emb_base, least=1)
        _check_number("layer_norm_epsilon", self.layer_norm_epsilon)
        _check_number("initializer_range", self.initializer_range)
        for name in ("attn_dropout_prob", "emb_dropout_prob"):
            _check_number(name, getattr(self, name), below=1)
        for name in ("use_cache", "use_dynamic_ntk", "use_logn_attn", "bf16", "fp16", "fp32", "recompute"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        if self.kv_cache_dtype not in (None, *KV_CACHE_DTYPES):
            raise ConfigurationError(
                f"kv_cache_dtype: expected one of {', '.join(KV_CACHE_DTYPES)}, got {self.kv_cache_dtype!r}"
            )
        if self.kv_channels * self.num_attention_heads != self.hidden_size:
            raise ConfigurationError(
                f"kv_channels: {self.kv_channels} × num_attention_heads={self.num_attention_heads} "
                f"is not hidden_size={self.hidden_size}"
            )
        if self.kv_channels % 2:
            raise ConfigurationError(
                f"kv_channels: expected an even number for the rotary embedding, got {self.kv_channels}"
            )
        if self.intermediate_size % 2:
            raise ConfigurationError(
                f"intermediate_size: expected twice the feed-forward width, got the odd number {self.intermediate_size}"
            )
        if self.visual.output_dim != self.hidden_size:
            raise ConfigurationError(
                f"visual.output_dim: {self.visual.output_dim} differs from hidden_size={self.hidden_size}"
            )
        if self.visual.image_pad_id >= self.vocab_size:
            raise ConfigurationError(
                f"visual.image_start_id: {self.visual.image_start_id} and the two ids after it do not fit into "
                f"vocab_size={self.vocab_size}"
            )
        chosen = [name for name in ("bf16", "fp16", "fp32") if getattr(self, name)]
        if len(chosen) > 1:
            raise ConfigurationError(f"{', '.join(chosen)}: at most one of bf16, fp16 and fp32 may be true")


def _check_extra_fields(fields: dict[str, Any]) -> None:
    for name, allowed in _FIXED_FIELDS.items():
        if name in fields and fields[name] not in allowed:
            raise ConfigurationError(f"{name}: only {allowed[0]!r} is supported, got {fields[name]!r}")
    free = _DESCRIPTIVE_FIELDS | set(_FIXED_FIELDS) | _KERNEL_FIELDS | _BASE_FIELDS
    of_other_models = {**vars(PretrainedConfig()), "num_labels": 2}
    unknown = sorted(set(fields) - free - set(of_other_models))
    if unknown:
        raise ConfigurationError(f"unknown configuration field(s) {unknown}; remove them or correct the spelling")
    for name in sorted(set(fields) - free):
        _check_switched_off(name, fields[name], of_other_models[name])


def _check_switched_off(name: str, value: Any, neutral: Any) -> None:
    """Fields that PaddleNLP's base class has for other models may only be there with the value that does nothing."""
    if value == neutral or (not value and not neutral) or (name.endswith("_degree") and value in (-1, 0, 1)):
        return
    hint = "how to generate stands in generation_config.json" if name in vars(GenerationConfig()) else "remove it"
    raise ConfigurationError(f"{name}: only {neutral!r} is supported, got {value!r}; {hint}")


def _check_number(name: str, value: Any, least: float = 0, below: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < below:
        bounds = f"of at least {least}" + (f" and below {below}" if below < math.inf else "")
        raise ConfigurationError(f"{name}: expected a number {bounds}, got {value!r}")


def _without(fields: dict[str, Any], dropped: dict[str, Any], *kept: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in dropped or name in kept}
