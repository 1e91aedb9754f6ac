"""Linear layers whose bias the operator that follows adds on its way."""

from __future__ import annotations

import paddle
import paddle.nn as nn
import paddle.nn.functional as F


def without_bias(layer: nn.Layer, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """``layer(x)`` less its bias, and the bias that is still to be added.

    A layer of another kind than ``nn.Linear`` (quantised, or with an adapter) adds its bias itself; then ``None`` is
    left to add.
    """
    if type(layer) is nn.Linear:
        return F.linear(x, layer.weight), layer.bias
    return layer(x), None
