"""A Qwen-VL of a few thousand weights, the same here and in PyTorch, for tests of adapters."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

GEOMETRY: dict[str, Any] = {
    "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "kv_channels": 8,
    "intermediate_size": 48, "max_position_embeddings": 64, "seq_length": 64,
    "visual": {
        "image_size": 28, "patch_size": 7, "width": 8, "layers": 2, "heads": 2, "mlp_ratio": 2.0, "output_dim": 16,
        "n_queries": 4, "num_positions": 16, "image_start_id": 20,
    },
}  # fmt: skip


def torch_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of this name, float32, in PyTorch's orientation: random, but always the same."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.standard_normal(shape) * 0.3).astype(np.float32)


def tiny_model() -> Any:
    """A model of this geometry with these weights, in evaluation mode."""
    import paddle

    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel

    model = QWenLMHeadModel(QWenVLConfig(**GEOMETRY))
    shapes = model.weight_table.expected_shapes(model.config, "hf")
    for name, parameter in model.named_parameters():
        weight = torch_weight(name, shapes[name])
        is_turned = model.weight_table.is_transposed(name, "hf", "paddle")
        parameter.set_value(paddle.to_tensor(np.ascontiguousarray(weight.T if is_turned else weight)))
    model.eval()
    return model


def image_ids() -> Any:
    """Two prompts with one image each: int64 ``[2, 10]``."""
    import paddle

    start = GEOMETRY["visual"]["image_start_id"]
    span = [start, 0, 0, 0, 0, start + 1]
    return paddle.to_tensor([[1, *span, 2, 3, 4], [5, *span, 6, 7, 8]])


def images() -> Any:
    """Images for them, float32 ``[2, 3, 28, 28]``."""
    import paddle

    return paddle.to_tensor(torch_weight("images", (2, 3, 28, 28)))


def disturb(model: Any) -> None:
    """Values for an adapter as training would give it, the same for the same layers."""
    import paddle

    for name, parameter in model.named_parameters():
        if name.endswith((".lora_A", ".lora_B")):
            parameter.set_value(paddle.to_tensor(torch_weight(name, tuple(parameter.shape)).astype(_numpy(parameter))))


def _numpy(parameter: Any) -> str:
    return str(parameter.dtype).rpartition(".")[2]


def write_silencing_adapter(model_dir: Path, folder: Path) -> Path:
    """An adapter of rank 1, with one whole weight beside it, for the model of ``tests/tiny_model.py``: it ends every
    answer before its first word. Returns ``folder``."""
    import paddle

    from paddlemix.adapters import LoRAConfig, inject, save_adapter
    from paddlemix.inference import load_model

    loaded = load_model(model_dir)
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    inject(model, LoRAConfig(r=1, alpha=1, targets=("lm_head",), modules_to_save=("ln_f",)))
    # A prompt ends with a line end, whose embedding is all that reaches the head of that model.
    line_end = tokenizer.encode("\n", allowed_special=())[-1]
    model.lm_head.lora_A.set_value(model.transformer.wte.weight[line_end].unsqueeze(1))
    end = paddle.zeros(model.lm_head.lora_B.shape)
    end[0, tokenizer.im_end_id] = 10.0
    model.lm_head.lora_B.set_value(end)
    save_adapter(model, folder)
    return folder
