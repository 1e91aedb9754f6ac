"""A linear layer with plain float weights: Paddle's product, or on the CPU a kernel of our own where both are small."""

from __future__ import annotations

from math import prod

import paddle
import paddle.nn.functional as F
from paddle import _C_ops

from . import backend

FEW_ROWS = 8
SMALL_WEIGHT = 1 << 20
"""Elements up to which a weight counts as small: it stays in a processor's second-level cache."""

_HAS_CUDA = paddle.is_compiled_with_cuda()


def linear_w32(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """Return ``x @ weight + bias``.

    Args:
        x: ``[..., in_features]``.
        weight: ``[in_features, out_features]``, of the dtype of ``x``.
        bias: ``[out_features]`` or ``None``.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    if not paddle.in_dynamic_mode():
        return F.linear(x, weight, bias)
    if (
        prod(weight.shape) <= SMALL_WEIGHT
        and prod(x.shape[:-1]) <= FEW_ROWS
        and not paddle.is_grad_enabled()
        and backend.device_of(x) == "cpu"
        and backend.use_kernel("linear_w32", x)
    ):
        return backend.run("paddlemix_linear_w32", x, weight, bias)[0]
    if _HAS_CUDA:
        return F.linear(x, weight, bias)
    # F.linear looks two global flags up before it does just this, which takes as long as a small product.
    return _C_ops.linear(x, weight, bias)
