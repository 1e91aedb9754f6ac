"""Configuration of Qwen-VL as classes: the published ``config.json``, read as it is.

What each field may be stands in :mod:`.config_schema`. A field takes effect, or is known to change nothing here, or is
refused by name; no second file is looked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddlenlp.transformers.configuration_utils import PretrainedConfig

from ...errors import CheckpointError
from ...utils.files import CONFIG_FILE
from . import config_schema
from .pretrained_arguments import split_arguments, with_plain_dtypes


class QWenVLVisionConfig:
    """The ``visual`` part: a ViT followed by a cross-attention resampler.

    Attributes:
        image_size: side of the square input, in pixels.
        patch_size: side of one patch, in pixels; divides ``image_size``.
        width: hidden size of the ViT.
        layers: number of ViT blocks.
        heads: number of ViT attention heads; divides ``width``.
        mlp_ratio: the MLP's hidden size is ``int(width * mlp_ratio)``.
        output_dim: hidden size of the resampler, equal to the language model's ``hidden_size``.
        image_start_id: token id of ``<img>``; ``</img>`` and ``<imgpad>`` follow it.
        n_queries: number of feature vectors for one image; a square number.
        num_positions: entries of the ViT's position table, a square number; resized bicubically where the patch grid
            differs.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float
    output_dim: int
    image_start_id: int
    n_queries: int
    num_positions: int

    def __init__(self, **fields: Any) -> None:
        """Check the fields and keep them as attributes.

        Args:
            **fields: the attributes; those of the published model where one is absent.

        Raises:
            ConfigurationError: an unknown field, or a value that cannot work.
        """
        for name, value in config_schema.check_visual(fields).items():
            setattr(self, name, value)

    @property
    def image_end_id(self) -> int:
        """The id of ``</img>``."""
        return self.image_start_id + 1

    @property
    def image_pad_id(self) -> int:
        """The id of ``<imgpad>``."""
        return self.image_start_id + 2

    @property
    def mlp_width(self) -> int:
        """Width of the ViT's feed-forward layers."""
        return int(self.width * self.mlp_ratio)

    @property
    def resampler_heads(self) -> int:
        """The resampler's heads are 128 wide, as in the original; a narrower resampler has one head."""
        return config_schema.resampler_heads(self.output_dim)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as in the section ``visual`` of ``config.json``."""
        return dict(vars(self))


class QWenVLConfig(PretrainedConfig):
    """Configuration of :class:`QWenLMHeadModel`, with the field names of the published ``config.json``.

    Attributes:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads: of the language model.
        kv_channels: width of an attention head.
        intermediate_size: twice the width of the feed-forward layer, as published.
        max_position_embeddings: the window: most positions of prompt and answer together.
        seq_length: positions that the model was trained with; beyond, NTK and log-n scaling begin.
        rotary_emb_base, layer_norm_epsilon, initializer_range, attn_dropout_prob, emb_dropout_prob: as they say.
        use_dynamic_ntk, use_logn_attn: whether prompts beyond ``seq_length`` are scaled so.
        bf16, fp16, fp32: ask for a dtype when ``from_pretrained`` is given none; at most one may be true.
        recompute: compute activations again in the backward pass, to save memory.
        kv_cache_dtype: dtype of the cache; None: that of the model.
        visual: the vision part.
        quantization: how the weights of a checkpoint are quantized (the file's ``quantization_config``), or None.
    """

    model_type = "qwen"
    attribute_map: dict[str, str] = {}

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    kv_channels: int
    intermediate_size: int
    max_position_embeddings: int
    seq_length: int
    rotary_emb_base: float
    layer_norm_epsilon: float
    initializer_range: float
    attn_dropout_prob: float
    emb_dropout_prob: float
    use_cache: bool
    use_dynamic_ntk: bool
    use_logn_attn: bool
    bf16: bool
    fp16: bool
    fp32: bool
    recompute: bool
    kv_cache_dtype: str | None

    def __init__(self, *, visual: Mapping[str, Any] | QWenVLVisionConfig | None = None, **fields: Any) -> None:
        """Check the fields and keep them as attributes.

        Args:
            visual: the vision part; that of the published model where it is absent.
            **fields: the other fields of ``config.json``; those of the published model where one is absent.

        Raises:
            ConfigurationError: an unknown field, or a value that cannot work.
        """
        given = visual.to_dict() if isinstance(visual, QWenVLVisionConfig) else visual
        values = config_schema.check_config({**fields, "visual": given})
        torch_dtype = values.pop("torch_dtype")
        dtype = values.pop("dtype") if torch_dtype is None else torch_dtype
        vision_fields, quantization = values.pop("visual"), values.pop("quantization_config")
        own = {name: values.pop(name) for name in config_schema.LANGUAGE}
        # PaddleNLP would otherwise record Paddle's current default dtype as if the file had asked for it.
        values["dtype"] = dtype
        super().__init__(**values, use_cache=own["use_cache"], tie_word_embeddings=False, return_dict=True)
        for name, value in own.items():
            setattr(self, name, value)
        self.visual = QWenVLVisionConfig(**vision_fields)
        # Under another name: PaddleNLP has a class of its own behind quantization_config, which drops what it does not
        # know.
        self.quantization = quantization

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike, **arguments: Any) -> QWenVLConfig:
        """Read ``config.json`` from a directory or a known name.

        Args:
            name_or_dir: a directory, a known name, or a name in a public store.
            **arguments: fields to replace; ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of the hub;
                and what else users of transformers write, see :mod:`.pretrained_arguments`.

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: the file is missing or not a JSON object.
            ConfigurationError: it is of another model, or a field is unknown or has a value that cannot work.
        """
        from ...checkpoint.hub import resolve

        options, overrides = split_arguments(arguments)
        return cls.from_directory(resolve(name_or_dir, weights=False, **options), **with_plain_dtypes(overrides))

    @classmethod
    def from_directory(cls, directory: Path, **overrides: Any) -> QWenVLConfig:
        """As :meth:`from_pretrained`, where the directory is known; ``overrides`` replace single fields.

        Raises:
            CheckpointError, ConfigurationError.
        """
        fields = config_schema.read_config(directory, **overrides)
        if fields is None:
            path = directory / CONFIG_FILE
            raise CheckpointError(f"{path}: missing; a model directory holds its configuration in {CONFIG_FILE}")
        return cls(**fields)

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
