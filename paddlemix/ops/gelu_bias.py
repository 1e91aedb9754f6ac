"""The bias of a linear layer and the GELU after it (Hendrycks and Gimpel, 2016), in one pass."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from . import backend
from .checks import check_features, check_floating, check_optional, check_tensors, last_axis


def gelu_bias(x: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """Return ``gelu(x + bias)`` with the exact normal distribution, not its tanh approximation.

    Args:
        x: ``[..., width]``, a product without its bias.
        bias: ``[width]``, of the dtype of ``x``; ``None``: none is left to add.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    if backend.use_kernel("gelu_bias", x):
        if bias is None:
            return backend.run("paddlemix_gelu", x)[0]
        return backend.run("paddlemix_gelu_bias", x, bias)[0]
    check_tensors("gelu_bias", x=x)
    check_optional("gelu_bias", bias=bias)
    check_floating("gelu_bias", "x", x)
    check_features("gelu_bias", x, last_axis("gelu_bias", "x", x), bias=bias)
    return gelu_bias_reference(x, bias)


def gelu_bias_reference(x: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """The same in plain Paddle."""
    return F.gelu(x if bias is None else x + bias)
