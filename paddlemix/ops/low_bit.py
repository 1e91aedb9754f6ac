"""What linear layers with packed weights share: sizes of tiles, checks, and the product with a weight read back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle.autograd import PyLayer

from ..errors import OperatorError
from . import backend
from .checks import check_tensors, dtype_name

TILE = 16  # outputs
GROUP = 128  # inputs that share a scale


def blocks(size: int, block: int) -> int:
    """How many blocks hold ``size`` elements, the last one padded."""
    return -(-size // block)


def in_blocks(w: np.ndarray, block: int) -> np.ndarray:
    """``[n, out]`` as ``[blocks, block, out]``, padded with zeros."""
    padded = np.zeros((blocks(w.shape[0], block) * block, w.shape[1]), w.dtype)
    padded[: w.shape[0]] = w
    return padded.reshape(-1, block, w.shape[1])


def has_packing_kernel(tensor: paddle.Tensor) -> bool:
    """Whether the library packs or unpacks a tensor of this device.

    That is no step of the model, so it is used wherever it is there, unless plain Paddle was asked for.
    """
    device = "cpu" if tensor.place.is_cpu_place() else "cuda"
    return backend.mode() != "reference" and device in backend.library().devices


def check_matrix(operator: str, name: str, matrix: paddle.Tensor, dtype: paddle.dtype) -> None:
    """Refuse what is not ``[in_features, out_features]`` of ``dtype``."""
    check_tensors(operator, **{name: matrix})
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise OperatorError(f"{operator}: {name} has shape {matrix.shape}, expected [in_features, out_features]")
    if matrix.dtype != dtype:
        raise OperatorError(f"{operator}: {name} is {dtype_name(matrix.dtype)}, expected {dtype_name(dtype)}; cast it")


def check_values(operator: str, name: str, q: paddle.Tensor, least: int, most: int) -> None:
    """Refuse an integer that a tile cannot hold."""
    values = q.numpy()
    low, high = int(values.min()), int(values.max())
    if low < least or high > most:
        raise OperatorError(f"{operator}: {name} has values from {low} to {high}, expected {least} to {most}")


def check_sizes(operator: str, in_features: int, out_features: int) -> None:
    """Refuse sizes that no weight has."""
    for name, size in (("in_features", in_features), ("out_features", out_features)):
        if not isinstance(size, int) or size < 1:
            raise OperatorError(f"{operator}: {name} must be a positive number, got {size!r}")


def check_packed(
    operator: str,
    weight: paddle.Tensor,
    weight_shape: list[int],
    scales: paddle.Tensor,
    scale_shapes: list[list[int]],
    scale_dtype: paddle.dtype,
) -> None:
    """Refuse tiles and scales of other shapes or dtypes than these."""
    if weight.shape != weight_shape:
        raise OperatorError(f"{operator}: weight has shape {weight.shape}, expected {weight_shape}")
    if scales.shape not in scale_shapes:
        raise OperatorError(f"{operator}: scales has shape {scales.shape}, expected {scale_shapes[0]}")
    if weight.dtype != paddle.uint8:
        raise OperatorError(f"{operator}: weight must be uint8 tiles")
    if scales.dtype != scale_dtype:
        raise OperatorError(f"{operator}: scales must be {dtype_name(scale_dtype)}")


def apply_weight(x: paddle.Tensor, unpack: Callable[[], paddle.Tensor], bias: paddle.Tensor | None) -> paddle.Tensor:
    """``x w + bias`` in the dtype of ``x``. ``unpack`` returns w, again in the backward pass: none is kept for it."""
    if paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not x.stop_gradient:
        out = _Product.apply(x, unpack)
    else:
        out = paddle.matmul(x, unpack().astype(x.dtype))
    return out if bias is None else out + bias


class _Product(PyLayer):
    @staticmethod
    def forward(ctx, x: paddle.Tensor, unpack: Callable[[], paddle.Tensor]) -> paddle.Tensor:
        ctx.unpack = unpack
        return paddle.matmul(x, unpack().astype(x.dtype))

    @staticmethod
    def backward(ctx, grad: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(grad, ctx.unpack().astype(grad.dtype), transpose_y=True)
