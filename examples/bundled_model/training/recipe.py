"""The recipe of the bundled model: geometry, initial values, stages."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn as nn

from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.models.qwen_vl.vision import CrossAttention

IMAGE_SIZE = 168
PATCH_SIZE = 14
QUERY_GRID = 6
EMBEDDING_STD = 0.5
SELF_MATCH = 2**-0.5  # a position's score for itself is then about 4, at 64 dimensions a head


@dataclass(frozen=True)
class Stage:
    """One run of the trainer.

    Attributes:
        conversations: conversations about each image, of which as many are used as fit into a row; 0 trains the
            vision part alone.
        learning_rate: its peak; reached after ``warmup_steps``.
        decay: the learning rate falls linearly to zero over the stage, instead of staying constant.
        head_weight: what the training heads count beside the text.
        first_seed: of the stage's scenes.
        trains_model: otherwise the training heads alone learn.
    """

    conversations: int
    learning_rate: float
    warmup_steps: int
    decay: bool
    head_weight: float
    first_seed: int
    trains_model: bool = True


# The vision part first, alone: cheap steps that teach it what there is to see. Then everything, at a constant rate
# until the decoder has found out how to look; then a long decay, in which the loss falls fastest. A model that is there
# already has no heads: they learn first, alone, so that they do not spoil it; then follows another decay.
STAGES: dict[str, Stage] = {
    "vision": Stage(0, 1e-3, 200, False, 1.0, first_seed=0),
    "joint": Stage(7, 1e-3, 200, False, 0.5, first_seed=2**28),
    "anneal": Stage(7, 1e-3, 50, True, 0.5, first_seed=2**29),
    "heads": Stage(0, 3e-3, 20, True, 1.0, first_seed=2**30, trains_model=False),
    "refine": Stage(7, 3e-4, 50, True, 0.5, first_seed=2**30 + 2**28),
}


def small_config(tokenizer: QWenVLTokenizer) -> QWenVLConfig:
    """The bundled model's configuration: the original's fields, small numbers.

    The rotary base is large, so that half of each head's dimensions hardly turn within a prompt: they can compare a
    word with what an image shows whatever the distance.
    """
    vocab_size = -(-len(tokenizer) // 64) * 64
    return QWenVLConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        kv_channels=64,
        intermediate_size=2 * 384,
        max_position_embeddings=2048,
        seq_length=2048,
        rotary_emb_base=1_000_000,
        visual={
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "width": 128,
            "layers": 4,
            "heads": 4,
            "mlp_ratio": 4.0,
            "output_dim": 192,
            "image_start_id": tokenizer.img_start_id,
            "n_queries": QUERY_GRID**2,
            "num_positions": (IMAGE_SIZE // PATCH_SIZE) ** 2,
        },
    )


def initialize(model: QWenLMHeadModel) -> None:
    """Initial values that let a small model learn fast.

    Linear layers keep the variance of their input (``1 / sqrt(in)``), those that end a residual branch start smaller.
    In all but one head of each decoder layer the query projection starts equal to the key projection: a position then
    attends a little more to positions that resemble it, which is how a name finds the part of the image that looks
    like it. Their scale is set so that a position does not see itself only.
    """
    depth = model.config.num_hidden_layers + model.config.visual.layers
    for name, layer in model.named_sublayers():
        if isinstance(layer, nn.Linear):
            std = layer.weight.shape[0] ** -0.5
            if name.endswith(("c_proj", "out_proj")):
                std *= (2 * depth) ** -0.5
            _normal(layer.weight, std)
        elif isinstance(layer, CrossAttention):
            _normal(layer.in_proj_weight, layer.in_proj_weight.shape[0] ** -0.5)
        elif isinstance(layer, nn.Conv2D):
            _normal(layer.weight, (3 * PATCH_SIZE**2) ** -0.5)
    _normal(model.transformer.wte.weight, EMBEDDING_STD)
    _normal(model.lm_head.weight, 0.02)
    hidden, head_dim = model.config.hidden_size, model.config.kv_channels
    matching = hidden - head_dim
    for block in model.transformer.h:
        weight = block.attn.c_attn.weight
        query, key, value = weight.chunk(3, axis=1)
        shared = key[:, :matching] * SELF_MATCH
        query = paddle.concat([shared, query[:, matching:]], axis=1)
        key = paddle.concat([shared, key[:, matching:]], axis=1)
        weight.set_value(paddle.concat([query, key, value], axis=1))


def _normal(parameter: paddle.Tensor, std: float) -> None:
    parameter.set_value(paddle.randn(parameter.shape) * std)
