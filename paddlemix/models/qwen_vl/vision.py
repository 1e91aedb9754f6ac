"""The image encoder: a ViT without class token or final norm, the resampler, and a projection."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ... import ops
from ...errors import ImageError
from ...parallel.group import SINGLE
from ...quantization.layers import PendingParameter, QuantizedLinear
from .configuration import QWenVLVisionConfig
from .layers import LayerNorm, Linear, activation_checkpoint, row_parallel, without_bias

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


class VisualAttention(nn.Layer):
    """Self-attention whose packed projection is interleaved per head: ``[q0 k0 v0 q1 k1 v1 …]``, as in the original."""

    def __init__(self, width: int, heads: int) -> None:
        """Create the projections."""
        super().__init__()
        self.group = SINGLE
        self.heads = heads
        self.in_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[n, patches, width]`` to the same shape."""
        attended = ops.attention_interleaved(self.in_proj(self.group.copy(x)), self.heads)
        return row_parallel(self.out_proj, attended, self.group)


class VisualMLP(nn.Layer):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, mlp_width: int) -> None:
        """Create the two layers."""
        super().__init__()
        self.group = SINGLE
        self.c_fc = Linear(width, mlp_width)
        self.c_proj = Linear(mlp_width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[n, patches, width]`` to the same shape."""
        activated = ops.gelu_bias(*without_bias(self.c_fc, self.group.copy(x)))
        return row_parallel(self.c_proj, activated, self.group)


class VisualAttentionBlock(nn.Layer):
    """Pre-norm transformer block; the sum of its output and its residual is left to whatever follows."""

    def __init__(self, config: QWenVLVisionConfig) -> None:
        """Create norms, attention and feed-forward layers."""
        super().__init__()
        self.ln_1 = LayerNorm(config.width, LAYER_NORM_EPSILON)
        self.ln_2 = LayerNorm(config.width, LAYER_NORM_EPSILON)
        self.attn = VisualAttention(config.width, config.heads)
        self.mlp = VisualMLP(config.width, config.mlp_width)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor | None) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Output and residual of the block before, to those of this one: ``[n, patches, width]`` each."""
        normalized, residual = self.ln_1(x, residual)
        normalized, residual = self.ln_2(self.attn(normalized), residual)
        return self.mlp(normalized), residual


class VisualTransformer(nn.Layer):
    """The stack of blocks. ``enable_recompute`` trades time for memory in training."""

    def __init__(self, config: QWenVLVisionConfig) -> None:
        """Create ``config.layers`` blocks."""
        super().__init__()
        self.enable_recompute = False
        self.resblocks = nn.LayerList([VisualAttentionBlock(config) for _ in range(config.layers)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[n, patches, width]`` to the same shape."""
        residual = None
        for block in self.resblocks:
            if self.enable_recompute and self.training:
                x, residual = activation_checkpoint(block, block, x, residual)
            else:
                x, residual = block(x, residual)
        return x if residual is None else x + residual


class VisionTransformer(nn.Layer):
    """Images to feature vectors in the language model's embedding space.

    The side of the images is any multiple of the patch size; the position tables are resized where the grid differs
    from theirs. ``enable_recompute`` trades time for memory in the resampler's training; the ViT, ``transformer``, has
    its own.
    """

    def __init__(self, config: QWenVLVisionConfig) -> None:
        """Create patch embedding, position table, blocks, resampler and projection."""
        super().__init__()
        self.config = config
        self.enable_recompute = False
        self.conv1 = nn.Conv2D(3, config.width, config.patch_size, stride=config.patch_size, bias_attr=False)
        self.positional_embedding = self.create_parameter([config.num_positions, config.width])
        self.ln_pre = LayerNorm(config.width, LAYER_NORM_EPSILON)
        self.transformer = VisualTransformer(config)
        self.attn_pool = Resampler(config)
        self.ln_post = LayerNorm(config.output_dim, LAYER_NORM_EPSILON)
        # Used as `x @ proj`: stored [in, out] in the original as well, so never transposed by a converter.
        self.proj: Any = self.create_parameter([config.output_dim, config.output_dim])

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Float ``[n, 3, side, side]`` (normalized pixels) to ``[n, n_queries, output_dim]``.

        Raises:
            ImageError: another shape.
        """
        return self.finish(self.transformer(self.begin(images)))

    def begin(self, images: paddle.Tensor) -> paddle.Tensor:
        """``[n, 3, side, side]`` to the first block's input, ``[n, patches, width]``."""
        return self.ln_pre(self.embed_patches(images))[0]

    def finish(self, x: paddle.Tensor) -> paddle.Tensor:
        """The last block's output, ``[n, patches, width]``, to features ``[n, n_queries, output_dim]``."""
        if self.enable_recompute and self.training:
            x = activation_checkpoint(self.attn_pool, self.attn_pool, x)
        else:
            x = self.attn_pool(x)
        x, _ = self.ln_post(x)
        # quantized, it is a layer
        return self.proj(x) if isinstance(self.proj, nn.Layer) else x @ self.proj

    def quantize_parameters(self, format_of: Callable[[str], str]) -> list[PendingParameter]:
        """Put a layer in the place of ``proj``; see :class:`~paddlemix.quantization.layers.HasLinearParameters`."""
        shape, kind = self.proj.shape, format_of("proj")
        del self.proj
        self.proj = QuantizedLinear(shape[0], shape[1], kind)
        return [PendingParameter(self.proj, "proj", "proj", "proj.bias")]

    def embed_patches(self, images: paddle.Tensor) -> paddle.Tensor:
        """``[n, 3, side, side]`` to ``[n, patches, width]``, positions added, before the first norm.

        Raises:
            ImageError: another shape.
        """
        patch = self.config.patch_size
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[2] % patch:
            raise ImageError(
                f"images: got shape {list(images.shape)}, expected [n, 3, side, side], side a multiple of "
                f"{patch}, such as {self.config.image_size}; QwenVLImageProcessor makes them"
            )
        x = self.conv1(images.astype(self.conv1.weight.dtype))
        x = x.flatten(start_axis=2).transpose([0, 2, 1])
        return x + resize_positions(self.positional_embedding, x.shape[1])

    def blank_images(self) -> paddle.Tensor:
        """One black image of the size for which no position table is resized; stands in where a batch has none."""
        side = round(self.config.num_positions**0.5) * self.config.patch_size
        return paddle.zeros([1, 3, side, side], dtype=self.conv1.weight.dtype)
