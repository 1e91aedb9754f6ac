"""The gated activation of the feed-forward layer (Shazeer, 2020)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ..errors import OperatorError
from . import backend
from .checks import check_floating, check_like, check_optional, check_tensors, last_axis


def swiglu(gate: paddle.Tensor, up: paddle.Tensor | None = None) -> paddle.Tensor:
    """Return ``silu(gate) * up``.

    Args:
        gate: ``[..., width]``; without ``up`` ``[..., 2 * width]``, first the gate and then up.
        up: of the shape and dtype of ``gate``.

    Returns:
        ``[..., width]``.

    Raises:
        OperatorError: shapes or dtypes do not fit.
    """
    if backend.use_kernel("swiglu", gate):
        if up is None:
            return backend.run("paddlemix_swiglu_packed", gate)[0]
        return backend.run("paddlemix_swiglu", gate, up)[0]
    check_tensors("swiglu", gate=gate)
    check_optional("swiglu", up=up)
    check_floating("swiglu", "gate", gate)
    last_axis("swiglu", "gate", gate)
    check_like("swiglu", gate, up=up)
    return swiglu_reference(gate, up)


def swiglu_reference(gate: paddle.Tensor, up: paddle.Tensor | None = None) -> paddle.Tensor:
    """The same in plain Paddle."""
    if up is None:
        if gate.shape[-1] % 2:
            raise OperatorError(f"swiglu: the last axis of a packed gate and up must be even, got {gate.shape[-1]}")
        gate, up = paddle.chunk(gate, 2, axis=-1)
    return F.silu(gate) * up
