"""Models of the published widths whose weights are random, in any of the formats, made in memory."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn as nn

from paddlemix.checkpoint import dtypes
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.ops.linear_nf4 import quantize_scales
from paddlemix.quantization.layers import QuantizedLinear, replace_layers
from paddlemix.quantization.plan import INT4, INT8, NF4, QuantizationPlan
from paddlemix.quantization.tiles import aligned_empty, as_tensor

from .shapes import Shapes

STANDARD_DEVIATION = 0.02
# Of the integers that random bytes hold: 16 or 255 equally likely values.
_INT4_DEVIATION, _INT8_DEVIATION = 4.61, 73.6
# Random numbers are repeated after so many bytes: memory is read all the same, and making them takes no minutes.
_PATTERN = 1 << 22


def config_of(shapes: Shapes, lm_layers: int, vit_layers: int, vocab_size: int = 64) -> QWenVLConfig:
    """The configuration with these widths; a small vocabulary by default, because the head is no part of a layer."""
    return QWenVLConfig(
        vocab_size=vocab_size,
        hidden_size=shapes.hidden,
        num_hidden_layers=lm_layers,
        num_attention_heads=shapes.heads,
        kv_channels=shapes.hidden // shapes.heads,
        intermediate_size=2 * shapes.ffn,
        visual={
            "width": shapes.vit_width,
            "layers": vit_layers,
            "heads": shapes.vit_heads,
            "mlp_ratio": shapes.vit_mlp / shapes.vit_width,
            "output_dim": shapes.hidden,
            "image_start_id": vocab_size - 6 if vocab_size < 151936 else 151857,
        },
    )


def random_model(config: QWenVLConfig, plan: QuantizationPlan | None, seed: int = 0) -> QWenLMHeadModel:
    """A model in evaluation mode on the current device, in Paddle's default dtype where ``plan`` does not say more."""
    dtype = paddle.get_default_dtype()
    paddle.seed(seed)
    if plan is None:
        model = QWenLMHeadModel(config)
        model.eval()
        return model
    with paddle.LazyGuard():
        model = QWenLMHeadModel(config)
    generator = np.random.default_rng(seed)
    for parameter in replace_layers(model, plan, dtype, model.weight_table):
        if isinstance(parameter.layer, QuantizedLinear):
            fill(parameter.layer, generator)
        else:
            shape = (parameter.layer.num_embeddings, parameter.layer.embedding_dim)
            parameter.layer.weight = _sixteen_bit(shape, parameter.layer.kind, generator)
    for parameter in model.parameters():
        parameter.initialize()
    for layer in model.sublayers():
        if isinstance(layer, (nn.Linear, nn.Embedding, nn.Conv2D)):
            layer.weight.set_value(paddle.randn(layer.weight.shape).astype(dtype) * STANDARD_DEVIATION)
    model.eval()
    return model


def fill(layer: QuantizedLinear, generator: np.random.Generator) -> None:
    """Give the layer random weights, and no bias."""
    expected = layer.expected()
    shape, kind = expected["qweight"]
    if layer.kind not in (INT4, INT8, NF4):
        layer.fill(_sixteen_bit(shape, kind, generator), None, None)
        return
    weight = aligned_empty(shape, kind)
    _repeat(weight, generator.integers(1 if layer.kind == INT8 else 0, 256, _PATTERN, dtype=np.uint8))
    if layer.kind == NF4:
        scales, nested = quantize_scales(
            np.full(expected["scales"][0], 2 * STANDARD_DEVIATION, np.float32), layer.in_features, layer.out_features
        )
        layer.fill(as_tensor(weight, "uint8"), as_tensor(scales, "uint8"), None, as_tensor(nested, "float32"))
        return
    shape, kind = expected["scales"]
    scales = aligned_empty(shape, kind)
    scales[...] = STANDARD_DEVIATION / (_INT4_DEVIATION if layer.kind == INT4 else _INT8_DEVIATION)
    layer.fill(as_tensor(weight, "uint8"), as_tensor(scales, kind), None)


def _sixteen_bit(shape: tuple[int, ...], kind: str, generator: np.random.Generator) -> paddle.Tensor:
    values = aligned_empty(shape, kind)
    normal = generator.standard_normal(_PATTERN // 2, dtype=np.float32) * STANDARD_DEVIATION
    _repeat(values, dtypes.from_float32(normal, kind))
    return as_tensor(values, kind)


def _repeat(array: np.ndarray, pattern: np.ndarray) -> None:
    flat = array.reshape(-1)
    for start in range(0, flat.size, pattern.size):
        flat[start : start + pattern.size] = pattern[: flat.size - start]
