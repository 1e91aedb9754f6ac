"""The adapted linear layer."""

from __future__ import annotations

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ..checkpoint.shards import Shard
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

    def __init__(
        self, base_layer: nn.Linear | QuantizedLinear, config: LoRAConfig, dtype: str, shard: Shard | None = None
    ) -> None:
        """Stand around a layer.

        Args:
            base_layer: the layer.
            config: of the adapter.
            dtype: of its weights.
            shard: the part of its weight that the layer has in a split model. A is drawn whole, so that all processes
                have parts of the same one.
        """
        super().__init__()
        own_inputs, out_features = linear_shape(base_layer)
        in_features = own_inputs if shard is None else shard.whole[0]
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
        if shard is not None:
            self._split(shard)

    def _split(self, shard: Shard) -> None:
        """Keep this process's rows of A, where it has some of the inputs, and mark what is whole, and what is not.

        What is whole beside a split matrix has a gradient that is the sum of the processes' gradients.
        """
        split, whole = (self.lora_A, self.lora_B) if shard.axis == 0 else (self.lora_B, self.lora_A)
        if shard.axis == 0:
            rows = Shard((shard.whole[0], self.lora_A.shape[1]), 0, shard.slices)
            values = rows.take(self.lora_A.numpy())
            nothing = nn.initializer.Constant(0.0)  # draws no random numbers
            split = self.create_parameter(list(rows.shape), dtype=self.lora_A.dtype, default_initializer=nothing)
            split.set_value(values)
            self.lora_A = split
        split.is_distributed = True
        whole.has_partial_gradient = True

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``x``."""
        return self._added(x, self.base_layer(x))

    def without_bias(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | None]:
        """``forward`` less the bias, and the bias that is still to be added."""
        if isinstance(self.base_layer, QuantizedLinear):
            out, bias = self.base_layer.without_bias(x)
        else:
            out, bias = F.linear(x, self.base_layer.weight), self.base_layer.bias
        return self._added(x, out), bias

    def _added(self, x: paddle.Tensor, out: paddle.Tensor) -> paddle.Tensor:
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
