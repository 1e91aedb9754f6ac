"""Linear layers with packed weights: the formats of 4 and 8 bits, checks, and the product with a weight read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.autograd import PyLayer

from ..errors import OperatorError
from . import backend
from .checks import check_features, check_floating, check_optional, check_tensors, dtype_name, last_axis

TILE = 16  # outputs
GROUP = 128  # inputs that share a scale


@dataclass(frozen=True)
class IntegerFormat:
    """Weights of 4 or 8 bits: ``W = q * scale`` with integers q in tiles and a scale per output and 128 inputs.

    Tiles (see ``external_ops/cpu/paddlemix_cpu.h``): ``[ceil(out / 16), in / inputs_per_line, 16, 4]`` bytes with
    ``in`` padded to a multiple of 128; a line is ``[16, 4]``. Scales: ``[ceil(out / 16), in / 128, 16]``.

    Attributes:
        name: of the operators: ``linear_<name>``, ``quantize_<name>``, ``pack_<name>``, ``dequantize_<name>``.
        inputs_per_line: 4, or 8: input j in the lower half of byte j, input j + 4 in its upper half.
        least: the smallest q.
        most: the largest q.
        zero: what a stored value exceeds q by.
        scale_dtype: ``"float16"`` or ``"float32"``.
        output_scales: whether one scale per output, ``[ceil(out / 16), 1, 16]``, is allowed too.
    """

    name: str
    inputs_per_line: int
    least: int
    most: int
    zero: int
    scale_dtype: str
    output_scales: bool = False

    @property
    def operator(self) -> str:
        """The name of the linear layer."""
        return f"linear_{self.name}"

    def linear(
        self,
        x: paddle.Tensor,
        weight: paddle.Tensor,
        scales: paddle.Tensor,
        bias: paddle.Tensor | None,
        out_features: int,
    ) -> paddle.Tensor:
        """``x W + bias``, with gradients to ``x`` only; arguments and errors are those of ``linear_<name>``."""
        operator = self.operator
        in_features = last_axis(operator, "x", x)
        if backend.use_kernel(operator, x):
            return backend.run(f"paddlemix_{operator}", x, weight, scales, bias, in_features, out_features)[0]
        check_floating(operator, "x", x)
        check_tensors(operator, weight=weight, scales=scales)
        check_optional(operator, bias=bias)
        check_features(operator, x, out_features, bias=bias)
        return self.reference(x, weight, scales, bias, out_features)

    def reference(
        self,
        x: paddle.Tensor,
        weight: paddle.Tensor,
        scales: paddle.Tensor,
        bias: paddle.Tensor | None,
        out_features: int,
    ) -> paddle.Tensor:
        """The same in plain Paddle; activations are not rounded."""
        in_features = x.shape[-1]
        self.check(weight, scales, in_features, out_features)
        return apply_weight(x, lambda: self.unpack(weight, scales, in_features, out_features), bias)

    def pack(self, q: paddle.Tensor) -> paddle.Tensor:
        """Tiles of int8 ``q`` ``[in_features, out_features]``, on the CPU.

        Raises:
            OperatorError: shape, dtype or values do not fit.
        """
        check_matrix(self.operator, "q", q, paddle.int8)
        check_values(self.operator, "q", q, self.least, self.most)
        if has_packing_kernel(q):
            return backend.run(f"paddlemix_pack_{self.name}", q)[0]
        return self.pack_integers(q.numpy())

    def dequantize(
        self, weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int
    ) -> paddle.Tensor:
        """The float32 W ``[in_features, out_features]`` that tiles and scales stand for.

        Raises:
            OperatorError: shapes or dtypes do not fit.
        """
        check_tensors(self.operator, weight=weight, scales=scales)
        if has_packing_kernel(weight):
            return backend.run(f"paddlemix_dequantize_{self.name}", weight, scales, in_features, out_features)[0]
        self.check(weight, scales, in_features, out_features)
        return self.unpack(weight, scales, in_features, out_features)

    def check(self, weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int) -> None:
        """Refuse tiles and scales that are not those of a weight ``[in_features, out_features]``.

        Raises:
            OperatorError: shapes or dtypes do not fit.
        """
        check_sizes(self.operator, in_features, out_features)
        tiles, groups = blocks(out_features, TILE), blocks(in_features, GROUP)
        allowed = [[tiles, groups, TILE], [tiles, 1, TILE]] if self.output_scales else [[tiles, groups, TILE]]
        shape = [tiles, groups * (GROUP // self.inputs_per_line), TILE, 4]
        check_packed(self.operator, weight, shape, scales, allowed, self.scale_dtype)

    def pack_integers(self, q: np.ndarray) -> paddle.Tensor:
        """:meth:`pack` in NumPy, without checks."""
        in_features, out_features = q.shape
        padded = np.zeros((blocks(in_features, GROUP) * GROUP, blocks(out_features, TILE) * TILE), np.int8)
        padded[:in_features, :out_features] = q
        stored = padded.view(np.uint8) + np.uint8(self.zero)  # modulo 256
        halves = stored.reshape(-1, self.inputs_per_line // 4, 4, padded.shape[1] // TILE, TILE)
        lines = halves[:, 0] if self.inputs_per_line == 4 else halves[:, 0] | halves[:, 1] << 4
        return paddle.to_tensor(np.ascontiguousarray(lines.transpose(2, 0, 3, 1)), place=paddle.CPUPlace())

    def unpack(
        self, weight: paddle.Tensor, scales: paddle.Tensor, in_features: int, out_features: int
    ) -> paddle.Tensor:
        """:meth:`dequantize` in plain Paddle, without checks."""
        outputs = weight.shape[0] * TILE
        lines = weight.astype("int32")  # [tiles, lines, 16, 4]
        halves = [lines] if self.inputs_per_line == 4 else [lines % 16, lines // 16]
        q = (paddle.stack(halves, axis=2) - self.zero).astype("float32").transpose([1, 2, 4, 0, 3])
        by_group = scales.astype("float32").transpose([1, 0, 2]).reshape([-1, 1, outputs])
        w = q.reshape([scales.shape[1], -1, outputs]) * by_group
        return w.reshape([-1, outputs])[:in_features, :out_features]


def scale_tiles(scales: np.ndarray) -> paddle.Tensor:
    """``[groups, out_features]`` as ``[ceil(out / 16), groups, 16]``, padded with zeros, on the CPU."""
    groups, out_features = scales.shape
    padded = np.zeros((groups, blocks(out_features, TILE) * TILE), scales.dtype)
    padded[:, :out_features] = scales
    tiles = np.ascontiguousarray(padded.reshape(groups, -1, TILE).transpose(1, 0, 2))
    return paddle.to_tensor(tiles, place=paddle.CPUPlace())


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
    return backend.offers("cpu" if tensor.place.is_cpu_place() else "cuda")


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
    scale_dtype: str,
) -> None:
    """Refuse tiles and scales of other shapes or dtypes than these."""
    if weight.shape != weight_shape:
        raise OperatorError(f"{operator}: weight has shape {weight.shape}, expected {weight_shape}")
    if scales.shape not in scale_shapes:
        raise OperatorError(f"{operator}: scales has shape {scales.shape}, expected {scale_shapes[0]}")
    if weight.dtype != paddle.uint8:
        raise OperatorError(f"{operator}: weight must be uint8 tiles")
    if dtype_name(scales.dtype) != scale_dtype:
        raise OperatorError(f"{operator}: scales must be {scale_dtype}")


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
