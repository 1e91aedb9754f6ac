"""The layers of a quantized model, and how they come into the place of the float ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ..checkpoint.layouts import WeightTable
from ..ops import backend
from ..ops.linear_nf4 import linear_nf4
from ..ops.linear_w4 import linear_w4
from ..ops.linear_w8 import linear_w8
from ..ops.linear_w16 import linear_w16
from ..utils.paddle_internals import paddle_dtype
from .plan import INT4, INT8, NF4, QuantizationPlan, tile_arrays


class QuantizedLinear(nn.Layer):
    """``y = x W + b`` with W ``[in_features, out_features]`` in packed tiles. Gradients reach x only.

    The arrays are buffers, which are saved but not trained. They are empty until :meth:`fill`.

    Attributes:
        kind: the format, one of ``plan.FORMATS``.
        qweight, scales, nested: see ``plan.tile_arrays``; 16-bit weights have no scales, only nf4 has ``nested``.
        bias: ``[out_features]`` in the model's dtype, or None.
    """

    qweight: paddle.Tensor
    scales: paddle.Tensor | None
    nested: paddle.Tensor | None
    bias: paddle.Tensor | None

    def __init__(self, in_features: int, out_features: int, kind: str) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        for name in ("qweight", "scales", "nested", "bias"):
            self.register_buffer(name, None)  # type: ignore[arg-type]  # None is allowed, in no stub

    def fill(
        self,
        qweight: paddle.Tensor,
        scales: paddle.Tensor | None,
        bias: paddle.Tensor | None,
        nested: paddle.Tensor | None = None,
    ) -> None:
        """Take these arrays, without a copy."""
        self.qweight, self.scales, self.nested, self.bias = qweight, scales, nested, bias

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``x``."""
        return self._product(x, self.bias)

    def _product(self, x: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
        scales = self.scales
        if scales is None:
            return linear_w16(x, self.qweight, bias, self.out_features)
        if self.nested is not None:
            return linear_nf4(x, self.qweight, scales, self.nested, bias, self.out_features)
        if self.kind == INT4:
            return linear_w4(x, self.qweight, scales, bias, self.out_features)
        return linear_w8(x, self.qweight, scales, bias, self.out_features)

    def without_bias(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | None]:
        """The product alone, and the bias that is still to be added."""
        return self._product(x, None), self.bias

    def bound(self, device: str, dtype: paddle.dtype) -> Callable[[paddle.Tensor], paddle.Tensor]:
        """``forward`` with operator and arrays looked up once, for activations on this device and of this dtype.

        For where gradients are off and ``x`` is contiguous. It keeps the arrays that the layer has now.
        """
        arrays = [array for array in (self.qweight, self.scales, self.nested) if array is not None]
        operator = {INT4: "linear_w4", INT8: "linear_w8", NF4: "linear_nf4"}.get(self.kind, "linear_w16")
        bias = self.bias
        function = backend.bound(operator, device, dtype)
        if function is None:
            return self
        sizes = self.in_features, self.out_features
        return lambda x: function(x, *arrays, bias, *sizes)[0]

    def expected(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of ``qweight`` and, where there are, ``scales`` and ``nested``."""
        return tile_arrays(self.kind, self.in_features, self.out_features)

    def extra_repr(self) -> str:
        """What Paddle prints of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


def bound_swiglu(
    gate: QuantizedLinear, up: QuantizedLinear, device: str, dtype: paddle.dtype
) -> Callable[[paddle.Tensor], paddle.Tensor] | None:
    """``silu(x gate) * (x up)`` by one operator of a GPU, looked up as :meth:`QuantizedLinear.bound` does.

    Returns:
        ``None`` where there is no such operator, or the two layers do not go together.
    """
    suffix = {INT4: "w4", INT8: "w8"}.get(gate.kind, "w16" if gate.scales is None else None)
    sizes = gate.in_features, gate.out_features
    if device != "cuda" or suffix is None or gate.kind != up.kind or sizes != (up.in_features, up.out_features):
        return None
    if gate.bias is not None or up.bias is not None:
        return None
    function = backend.bound(f"linear_{suffix}", device, dtype, f"swiglu_{suffix}")
    if function is None:
        return None
    arrays = [array for layer in (gate, up) for array in (layer.qweight, layer.scales) if array is not None]
    return lambda x: function(x, *arrays, *sizes)[0]


class SixteenBitEmbedding(nn.Layer):
    """An embedding table of 16 bits in a model of another dtype. Not trained."""

    def __init__(self, num_embeddings: int, embedding_dim: int, kind: str, dtype: str) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.kind = num_embeddings, embedding_dim, kind
        self.output_dtype = dtype
        self.register_buffer("weight", None)  # type: ignore[arg-type]  # None is allowed, in no stub

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        """Embeddings of the ids, in the dtype of the activations."""
        return F.embedding(ids, self.weight).astype(paddle_dtype(self.output_dtype))


@dataclass(frozen=True)
class PendingParameter:
    """A layer that waits for its weight.

    Attributes:
        path: its name in the model.
        weight, bias: what a float checkpoint calls its weight and (if it has one there) its bias, in our layout.
        columns: the outputs of that weight which are this layer's, where it has only some of them.
    """

    layer: QuantizedLinear | SixteenBitEmbedding
    path: str
    weight: str
    bias: str
    columns: slice | None = None


class HasLinearParameters(Protocol):
    """A layer of a model with linear weights that are parameters of its own instead of layers within it."""

    def quantize_parameters(self, format_of: Callable[[str], str]) -> list[PendingParameter]:
        """Replace these parameters by :class:`QuantizedLinear` layers.

        Args:
            format_of: name of a parameter of this layer -> its format.

        Returns:
            The new layers, all names relative to this layer.
        """


def replace_layers(model: nn.Layer, plan: QuantizationPlan, dtype: str, table: WeightTable) -> list[PendingParameter]:
    """Put the layers that ``plan`` asks for in the place of a model's float ones, whose weights are dropped.

    Layers with linear parameters of their own replace them themselves, see :class:`HasLinearParameters`.

    Args:
        model: in ``dtype``, with the weights of ``table``.
        plan: the formats.
        dtype: the model's.
        table: the weights of the model's family.

    Returns:
        The new layers, in the order of the model; all wait for their weights.
    """
    pending: list[PendingParameter] = []
    for parent, prefix in [*_layers(model)]:
        for name, child in [*parent.named_children()]:
            path = f"{prefix}{name}"
            kind = plan.format_of(f"{path}.weight", table)
            if kind is None:
                continue
            if isinstance(child, nn.Linear):
                in_features, out_features = child.weight.shape
                new: QuantizedLinear | SixteenBitEmbedding = QuantizedLinear(in_features, out_features, kind)
            elif isinstance(child, nn.Embedding) and kind != dtype:
                rows, width = child.weight.shape
                new = SixteenBitEmbedding(rows, width, kind, dtype)
            else:
                continue
            setattr(parent, name, new)
            pending.append(PendingParameter(new, path, f"{path}.weight", f"{path}.bias"))
        if hasattr(parent, "quantize_parameters"):
            pending += _replace_parameters(parent, prefix, plan, table)
    return pending


def _layers(model: nn.Layer) -> Iterator[tuple[nn.Layer, str]]:
    yield model, ""
    for path, layer in model.named_sublayers():
        yield layer, f"{path}."


def _replace_parameters(
    layer: HasLinearParameters, prefix: str, plan: QuantizationPlan, table: WeightTable
) -> list[PendingParameter]:
    def format_of(name: str) -> str:
        kind = plan.format_of(f"{prefix}{name}", table)
        if kind is None:
            raise KeyError(f"{prefix}{name}: is no linear weight of {table.family}")
        return kind

    return [
        replace(parameter, path=prefix + parameter.path, weight=prefix + parameter.weight, bias=prefix + parameter.bias)
        for parameter in layer.quantize_parameters(format_of)
    ]
