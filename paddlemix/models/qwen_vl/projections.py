"""Linear layers, and how the operator that follows takes their bias over."""

from __future__ import annotations

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
from paddle import _C_ops

_HAS_CUDA = paddle.is_compiled_with_cuda()


class Linear(nn.Linear):
    """``nn.Linear`` on a shorter way: ``F.linear`` looks two global flags up in every call, which takes as long as the
    product of a small model."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return _linear(x, self.weight, self.bias)


def without_bias(layer: nn.Layer, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """``layer(x)`` less its bias, and the bias that is still to be added.

    A layer of another kind than ``Linear`` (quantised, or with an adapter) adds its bias itself; then ``None`` is left
    to add.
    """
    if type(layer) is Linear:
        return _linear(x, layer.weight, None), layer.bias
    return layer(x), None


def _linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    if _HAS_CUDA or not paddle.in_dynamic_mode():
        return F.linear(x, weight, bias)
    return _C_ops.linear(x, weight, bias)
