"""The image encoder: a ViT without class token or final norm, the resampler, and a projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn as nn

from ... import ops
from ...errors import ImageError
from ...parallel.group import SINGLE
from ...quantization.layers import PendingParameter, QuantizedLinear
from .configuration import QWenVLVisionConfig
from .layers import LayerNorm, Linear, activation_checkpoint, row_parallel, without_bias
from .resampler import LAYER_NORM_EPSILON, Resampler, resize_positions


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
