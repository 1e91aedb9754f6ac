"""The adapted linear layer."""

from __future__ import annotations

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ..quantization.layers import QuantizedLinear
from ..utils.paddle_internals import paddle_dtype
from .config import LoRAConfig


class LoRALinear(nn.Layer):
    """``base(x) + scaling * dropout(x) A B``, over a float or quantized linear layer that stays as it is.

    A starts at random, B at zero: at first nothing is added. The two may be of a wider dtype than x, which training in
    float16 needs.

    Attributes:
        base_layer: the layer that is adapted.
        lora_A: ``[in_features, r]``.
        lora_B: ``[r, out_features]``.
    """

    def __init__(self, base_layer: nn.Linear | QuantizedLinear, config: LoRAConfig, dtype: str) -> None:
        super().__init__()
        in_features, out_features = linear_shape(base_layer)
        self.base_layer = base_layer
        self.scaling, self.dropout = config.scaling, config.dropout
        bound = in_features**-0.5  # Kaiming's uniform distribution with a negative slope of sqrt(5), as in peft
        self.lora_A = self.create_parameter(
            [in_features, config.r],
            dtype=paddle_dtype(dtype),
            default_initializer=nn.initializer.Uniform(-bound, bound),
        )
        self.lora_B = self.create_parameter(
            [config.r, out_features], dtype=paddle_dtype(dtype), default_initializer=nn.initializer.Constant(0.0)
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``x``."""
        out = self.base_layer(x)
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        if x.dtype != self.lora_A.dtype:
            x = x.astype(self.lora_A.dtype)
        added = paddle.matmul(paddle.matmul(x, self.lora_A) * self.scaling, self.lora_B)
        return out + (added if added.dtype == out.dtype else added.astype(out.dtype))

    def extra_repr(self) -> str:
        """What Paddle prints of the layer."""
        return f"r={self.lora_A.shape[1]}, scaling={self.scaling}, dropout={self.dropout}"


def linear_shape(layer: nn.Linear | QuantizedLinear) -> tuple[int, int]:
    """``(in_features, out_features)``."""
    if isinstance(layer, QuantizedLinear):
        return layer.in_features, layer.out_features
    return tuple(layer.weight.shape)
