"""The decoder's layers: RMSNorm, rotary self-attention with log-n scaling, and the gated feed-forward layer."""

from __future__ import annotations

import paddle
import paddle.nn as nn

from ... import ops
from ...parallel.group import SINGLE
from .attention_metadata import (
    AttentionMetadata,
    CachedAttention,
    DenseAttention,
    PackedAttention,
    PagedAttention,
    Rotation,
)
from .configuration import QWenVLConfig
from .kv_cache import KVCache, PagedKVCache
from .layers import Linear, RMSNorm, row_parallel, without_bias


class QWenAttention(nn.Layer):
    """Causal self-attention. Only ``c_attn`` has a bias."""

    def __init__(self, config: QWenVLConfig, layer: int) -> None:
        """Create the projections; ``layer`` is the index of its keys and values in a cache."""
        super().__init__()
        self.layer = layer
        self.group = SINGLE
        self.heads = config.num_attention_heads
        self.dropout = config.attn_dropout_prob
        self.c_attn = Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = Linear(config.hidden_size, config.hidden_size, bias_attr=False)

    def forward(
        self, x: paddle.Tensor, metadata: AttentionMetadata, cache: KVCache | PagedKVCache | None
    ) -> paddle.Tensor:
        """``[batch, length, hidden]`` to the same shape."""
        packed, bias = without_bias(self.c_attn, self.group.copy(x))
        if isinstance(metadata, CachedAttention):
            # The forms of metadata and of the cache belong together.
            attended = self._attend_cached(packed, bias, metadata, cache)  # type: ignore[arg-type]
        elif isinstance(metadata, PagedAttention):
            attended = self._attend_paged(packed, bias, metadata, cache)  # type: ignore[arg-type]
        elif isinstance(metadata, DenseAttention):
            heads = self._rotate(packed, bias, metadata.rotation, metadata.positions)
            attended = ops.merge_heads(ops.attention(*heads, metadata.mask, self._dropout()))
        else:
            attended = self._attend_packed(packed, bias, metadata)
        return row_parallel(self.c_proj, attended, self.group)

    def _rotate(
        self, packed: paddle.Tensor, bias: paddle.Tensor | None, rotation: Rotation, positions: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Queries, keys and values, each ``[batch, heads, length, head_dim]``."""
        return ops.rotary_qkv(packed, bias, self.heads, rotation.cos, rotation.sin, positions, logn=rotation.logn)

    def _attend_cached(
        self, packed: paddle.Tensor, bias: paddle.Tensor | None, metadata: CachedAttention, cache: KVCache | None
    ) -> paddle.Tensor:
        """Attention over a contiguous cache, to which the new keys and values are added; without one over these."""
        rotation, positions = metadata.rotation, metadata.positions
        if cache is None:
            query, key, value = self._rotate(packed, bias, rotation, positions)
        else:
            key, value = cache.keys[self.layer], cache.values[self.layer]
            query = ops.rotary_qkv_cache(
                packed, bias, self.heads, rotation.cos, rotation.sin, positions, key, value, metadata.cache_positions,
                logn=rotation.logn,
            )  # fmt: skip
        attend = ops.attention_decode if packed.shape[1] <= ops.DECODE_MAX_QUERIES else ops.attention_prefill
        return attend(
            query,
            key,
            value,
            kv_lengths=metadata.kv_lengths,
            query_starts=metadata.cache_positions,
            kv_starts=metadata.kv_starts,
            mask=metadata.mask,
            shared=metadata.shared,
        )

    def _attend_paged(
        self, packed: paddle.Tensor, bias: paddle.Tensor | None, metadata: PagedAttention, cache: PagedKVCache
    ) -> paddle.Tensor:
        """Attention of unrelated rows over the blocks of each, to which the new keys and values are added."""
        rotation, table = metadata.rotation, metadata.block_table
        key, value = cache.keys[self.layer], cache.values[self.layer]
        query = ops.rotary_qkv_cache(
            packed, bias, self.heads, rotation.cos, rotation.sin, metadata.positions, key, value,
            metadata.cache_positions, lengths=metadata.lengths, block_table=table, logn=rotation.logn,
            table_index=metadata.table_index,
        )  # fmt: skip
        attend = ops.attention_decode if packed.shape[1] <= ops.DECODE_MAX_QUERIES else ops.attention_prefill
        return attend(
            query,
            key,
            value,
            kv_lengths=metadata.kv_lengths,
            query_starts=metadata.cache_positions,
            block_table=table,
            shared=metadata.shared,
        )

    def _attend_packed(
        self, packed: paddle.Tensor, bias: paddle.Tensor | None, metadata: PackedAttention
    ) -> paddle.Tensor:
        """Attention of each sequence over itself: ``[batch, length, 3 * hidden]`` to ``[batch, length, hidden]``.

        The sequences of a group are cut out of their rows and become rows of their own, padded to the longest of them.
        """
        batch, length, width = packed.shape
        # Gathered once and split: the gradient of every gathering is as large as the whole.
        gathered = paddle.gather(packed.reshape([-1, width]), metadata.gather_indices)
        parts = paddle.split(gathered, [group.positions.size for group in metadata.groups])
        attended = []
        for group, part in zip(metadata.groups, parts):
            rows = part.reshape([*group.positions.shape, width])
            heads = self._rotate(rows, bias, metadata.rotation, group.positions)
            merged = ops.merge_heads(ops.attention(*heads, group.mask, self._dropout()))
            attended.append(merged.reshape([-1, merged.shape[-1]]))
        joined = paddle.concat(attended) if len(attended) > 1 else attended[0]
        return paddle.gather(joined, metadata.restore_indices).reshape([batch, length, -1])

    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0


class QWenMLP(nn.Layer):
    """``c_proj(silu(w2 x) * w1 x)``: ``w2`` is the gate and ``w1`` the up projection, not the other way round."""

    def __init__(self, config: QWenVLConfig) -> None:
        """Create the three projections."""
        super().__init__()
        self.group = SINGLE
        width = config.intermediate_size // 2
        self.w1 = Linear(config.hidden_size, width, bias_attr=False)
        self.w2 = Linear(config.hidden_size, width, bias_attr=False)
        self.c_proj = Linear(width, config.hidden_size, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[batch, length, hidden]`` to the same shape."""
        x = self.group.copy(x)
        return row_parallel(self.c_proj, ops.swiglu(self.w2(x), self.w1(x)), self.group)


class QWenBlock(nn.Layer):
    """Pre-norm transformer block.

    The addition of the block's output and its residual is fused into the next norm.
    """

    def __init__(self, config: QWenVLConfig, layer: int) -> None:
        """Create norms, attention and feed-forward layers; ``layer`` is the index of the block."""
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QWenAttention(config, layer)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QWenMLP(config)

    def forward(
        self,
        x: paddle.Tensor,
        residual: paddle.Tensor | None,
        metadata: AttentionMetadata,
        cache: KVCache | PagedKVCache | None = None,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Output and residual of the block before, to those of this one: ``[batch, length, hidden]`` each."""
        normalized, residual = self.ln_1(x, residual)
        normalized, residual = self.ln_2(self.attn(normalized, metadata, cache), residual)
        return self.mlp(normalized), residual
