"""Norms that add a residual first: the addition and the norm are one operator."""

from __future__ import annotations

import paddle
import paddle.nn as nn

from ... import ops


class RMSNorm(nn.Layer):
    def __init__(self, hidden_size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor | None = None) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The norm of ``x + residual``, and that sum (``x`` itself without a residual), of the shape of ``x``."""
        return ops.rms_norm(x, self.weight, self.epsilon, residual)


class LayerNorm(nn.Layer):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([width], is_bias=True)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor | None = None) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The norm of ``x + residual``, and that sum (``x`` itself without a residual), of the shape of ``x``."""
        return ops.layer_norm(x, self.weight, self.bias, self.epsilon, residual)
