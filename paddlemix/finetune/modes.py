"""The training modes full, LoRA and QLoRA: the model that each trains, and what each saves and restores."""

from __future__ import annotations

from pathlib import Path

import paddle

from ..adapters.config import LoRAConfig
from ..adapters.files import load_adapter, put_adapter
from ..adapters.injection import inject
from ..checkpoint import load_into, open_checkpoint
from ..errors import ConfigurationError
from ..models.qwen_vl.configuration import QWenVLConfig
from ..models.qwen_vl.modeling import QWenLMHeadModel
from ..models.qwen_vl.processing import QwenVLProcessor
from ..parallel.group import SINGLE, TensorParallelGroup
from ..utils.progress import ProgressBar
from .configuration import FULL, QLORA, FinetuneConfig
from .freezing import freeze


def check_base_model(config: FinetuneConfig, name_or_dir: str | Path) -> QWenVLConfig:
    """The configuration of the base model, if the mode can train it.

    Raises:
        ConfigurationError: a quantized model in another mode than qlora.
        CheckpointError: an invalid model configuration.
    """
    model_config = QWenVLConfig.from_pretrained(name_or_dir)
    if config.mode != QLORA and model_config.quantization:
        raise ConfigurationError(f"mode: got {config.mode}, but {name_or_dir} is quantized; use mode qlora")
    return model_config


def build_model(config: FinetuneConfig, directory: Path, group: TensorParallelGroup = SINGLE) -> QWenLMHeadModel:
    """Load the base model and make trainable what the mode trains.

    Args:
        config: of the run.
        directory: of the base model.
        group: the processes that share the model.

    Raises:
        ConfigurationError: a quantized model in another mode than qlora, or a ``freeze`` pattern that matches nothing.
        AdapterError: an adapter target that matches nothing.
    """
    stored = check_base_model(config, directory).quantization
    quantization = config.quantization or (None if stored or config.mode != QLORA else "int4")
    on_gpu = paddle.get_device().startswith("gpu")
    dtype = config.dtype or ("bfloat16" if on_gpu else None)
    with ProgressBar("loading") as advance:
        model = QWenLMHeadModel.from_directory(
            directory, dtype, quantization=quantization, progress=advance, group=group
        )
    if config.mode == FULL:
        freeze(model, config.freeze or ())
        if getattr(model.generation_config, "chat_format", None) == "raw":
            model.generation_config.chat_format = "chatml"  # training turns a base model into a chat model
    else:
        adapter = LoRAConfig(
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.lora_targets,
            modules_to_save=config.modules_to_save,
        )
        inject(model, adapter)
    return model


def save_trained(config: FinetuneConfig, model: QWenLMHeadModel, processor: QwenVLProcessor, directory: Path) -> None:
    """Write the complete model directory (mode full) or the adapter (other modes).

    All processes that share the model call this; the first one writes.
    """
    if config.mode == FULL:
        model.write_pretrained(directory)
        if model.group.rank == 0:
            processor.save_pretrained(directory)
    else:
        put_adapter(model, directory, base_name=config.model_name_or_path)


def load_trained(config: FinetuneConfig, model: QWenLMHeadModel, directory: Path) -> None:
    """Load what :func:`save_trained` wrote into the model.

    Raises:
        CheckpointError: damaged files, or those of another model.
        AdapterError: a damaged adapter, or one of another model.
    """
    if config.mode == FULL:
        shards = {} if model.partition is None else model.partition.shards
        load_into(model, open_checkpoint(directory, model.weight_table), shards=shards)
    else:
        load_adapter(model, directory, trainable=True)
