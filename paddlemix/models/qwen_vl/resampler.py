"""The resampler: learned queries attend to the ViT's patches; an image of any size becomes ``n_queries`` vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ... import ops
from ...parallel.group import SINGLE
from ...quantization.layers import PendingParameter, QuantizedLinear
from .configuration import QWenVLVisionConfig
from .layers import LayerNorm, Linear, row_parallel

LAYER_NORM_EPSILON = 1e-6


class CrossAttention(nn.Layer):
    """Multi-head attention whose packed projection is ``[q | k | v]``, contiguous, unlike the ViT's interleaved one.

    Quantized, its thirds are three layers, ``in_proj``, in place of the parameters.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Create the projections."""
        super().__init__()
        self.group = SINGLE
        self.heads = heads
        self.in_proj: nn.LayerList | None = None
        self.in_proj_weight = self.create_parameter([width, 3 * width])
        self.in_proj_bias = self.create_parameter([3 * width], is_bias=True)
        self.out_proj = Linear(width, width)

    def forward(self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        """Query ``[n, queries, width]``, key and value ``[n, patches, width]`` to ``[n, queries, width]``."""
        inputs = map(self.group.copy, (query, key, value))
        q, k, v = [ops.split_heads(x, self.heads) for x in self._project(*inputs)]
        if paddle.is_grad_enabled():
            attended = ops.merge_heads(ops.attention(q, k, v))
        else:
            kv_lengths = paddle.full([key.shape[0]], key.shape[1], dtype="int32")
            attended = ops.attention_prefill(q, k, v, kv_lengths=kv_lengths)
        return row_parallel(self.out_proj, attended, self.group)

    def quantize_parameters(self, format_of: Callable[[str], str]) -> list[PendingParameter]:
        """Put three layers in the place of the packed projection.

        See :class:`~paddlemix.quantization.layers.HasLinearParameters`.
        """
        (inputs, outputs), kind = self.in_proj_weight.shape, format_of("in_proj_weight")
        width = outputs // 3
        del self.in_proj_weight, self.in_proj_bias
        layers = [QuantizedLinear(inputs, width, kind) for _ in range(3)]
        self.in_proj = nn.LayerList(layers)
        return [
            PendingParameter(layer, f"in_proj.{i}", "in_proj_weight", "in_proj_bias", slice(i * width, (i + 1) * width))
            for i, layer in enumerate(layers)
        ]

    def _project(self, *inputs: paddle.Tensor) -> list[paddle.Tensor]:
        """Query, key and value, each through its third of the packed projection."""
        if self.in_proj is not None:
            return [layer(x) for layer, x in zip(self.in_proj, inputs)]
        thirds = zip(inputs, self.in_proj_weight.chunk(3, axis=1), self.in_proj_bias.chunk(3))
        return [F.linear(x, weight, bias) for x, weight, bias in thirds]


class Resampler(nn.Layer):
    """``[n, patches, width]`` to ``[n, n_queries, output_dim]`` with fixed two-dimensional sine positions.

    The queries' positions are used as they are, the keys' are the same table resized to the patch grid, the values
    have none.
    """

    def __init__(self, config: QWenVLVisionConfig) -> None:
        """Create the queries, the position table and the layers."""
        super().__init__()
        dim = config.output_dim
        self.query = self.create_parameter([config.n_queries, dim])
        self.pos_embed = self.create_parameter([config.n_queries, dim])
        # A constant of the architecture that checkpoints carry along; the original freezes it too.
        self.pos_embed.stop_gradient = True
        self.pos_embed.trainable = False
        self.kv_proj = Linear(config.width, dim, bias_attr=False)
        self.attn = CrossAttention(dim, config.resampler_heads)
        self.ln_q = LayerNorm(dim, LAYER_NORM_EPSILON)
        self.ln_kv = LayerNorm(dim, LAYER_NORM_EPSILON)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[n, patches, width]`` to ``[n, n_queries, output_dim]``."""
        value, _ = self.ln_kv(self.kv_proj(x))
        key = value + resize_positions(self.pos_embed, x.shape[1])
        query = (self.ln_q(self.query)[0] + self.pos_embed).unsqueeze(0).expand([x.shape[0], -1, -1])
        return self.attn(query, key, value)


def resize_positions(table: paddle.Tensor, length: int) -> paddle.Tensor:
    """Resize a square position table ``[s·s, dim]`` to ``[length, dim]`` by bicubic interpolation, in float32.

    Equal to PyTorch's ``interpolate(mode="bicubic", align_corners=False)``. The table is returned as it is where the
    sizes agree. Interpolation is separable, hence two products with one small constant matrix; gradients pass through
    both.
    """
    if table.shape[0] == length:
        return table
    source, target = round(table.shape[0] ** 0.5), round(length**0.5)
    matrix = paddle.to_tensor(bicubic_matrix(source, target))
    grid = table.astype("float32").reshape([source, -1])
    rows = paddle.matmul(matrix, grid).reshape([target, source, -1])
    return paddle.matmul(matrix, rows).reshape([length, -1]).astype(table.dtype)


@lru_cache(maxsize=16)
def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """One-dimensional bicubic interpolation (Keys, a = −0.75, edges repeated): float32 ``[target, source]``."""
    a = -0.75
    matrix = np.zeros((target, source))
    for row in range(target):
        position = (row + 0.5) * source / target - 0.5
        first = int(np.floor(position))
        for tap in range(first - 1, first + 3):
            distance = abs(position - tap)
            if distance <= 1:
                weight = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
            else:
                weight = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
            matrix[row, min(max(tap, 0), source - 1)] += weight
    return matrix.astype(np.float32)


def sine_positions(dim: int, side: int) -> np.ndarray:
    """Two-dimensional sine positions: column index in the first half, row index in the second.

    The table of masked autoencoders (He et al., 2021): each half holds sines, then cosines, of the index times
    ``10000 ** -(i / (dim / 4))``.

    Returns:
        float32 ``[side * side, dim]``.
    """
    frequency = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    row, column = np.divmod(np.arange(side * side), side)
    halves = []
    for index in (column, row):
        angle = np.outer(index, frequency)
        halves += [np.sin(angle), np.cos(angle)]
    return np.concatenate(halves, axis=1).astype(np.float32)
