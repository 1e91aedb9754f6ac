"""A tiny chat model with random weights: what it says is nonsense, but every token and pixel before changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
from paddlenlp.generation import GenerationConfig

from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from tests.tiny_vocabulary import write_rank_file

SLOTS = 4


def random_model(folder: Path, **overrides: Any) -> tuple[QWenLMHeadModel, QwenVLProcessor]:
    """The model and its processor; ``folder`` gets the vocabulary. ``overrides`` are configuration fields."""
    tokenizer = QWenVLTokenizer(write_rank_file(folder / "qwen.tiktoken"), image_slots=SLOTS)
    visual = {
        "image_size": 28, "patch_size": 7, "width": 32, "layers": 1, "heads": 2, "output_dim": 64, "n_queries": SLOTS,
        "num_positions": 16, "image_start_id": tokenizer.img_start_id,
    }  # fmt: skip
    fields = {
        "vocab_size": tokenizer.vocab_size + 7, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "kv_channels": 32, "intermediate_size": 128, "max_position_embeddings": 2048, "seq_length": 1024,
        "initializer_range": 0.3, "visual": visual,
    }  # fmt: skip
    paddle.seed(11)
    model = QWenLMHeadModel(QWenVLConfig(**{**fields, **overrides}))
    # Control tokens come rarely enough for answers of some length, and so that texts differ.
    head = model.lm_head.weight.numpy()
    head[:, tokenizer.eod_id :] *= 0.1
    model.lm_head.weight.set_value(head)
    model.generation_config = GenerationConfig(
        max_new_tokens=12, do_sample=False, eos_token_id=tokenizer.eod_id, pad_token_id=tokenizer.eod_id
    )
    model.eval()
    return model, QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=28))
