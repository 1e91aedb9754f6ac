"""Linear layers, and how the operator that follows takes their bias over."""

from __future__ import annotations

import paddle
import paddle.nn as nn

from ... import ops


class Linear(nn.Linear):
    """``nn.Linear`` on the project's operator."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return ops.linear_w32(x, self.weight, self.bias)


def without_bias(layer: nn.Layer, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """``layer(x)`` less its bias, and the bias that is still to be added.

    A layer of another kind than ``Linear`` (quantised, or with an adapter) adds its bias itself; then ``None`` is left
    to add.
    """
    if type(layer) is Linear:
        return ops.linear_w32(x, layer.weight, None), layer.bias
    return layer(x), None
