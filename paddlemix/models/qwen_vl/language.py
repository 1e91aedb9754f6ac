"""The decoder's layers: RMSNorm, rotary self-attention with log-n scaling, and the gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn as nn

from ... import ops
from .attention_inputs import AttentionInputs, Span
from .configuration import QWenVLConfig
from .kv_cache import KVCache
from .norms import RMSNorm
from .projections import Linear, without_bias


class QWenAttention(nn.Layer):
    """Causal self-attention. Only ``c_attn`` has a bias."""

    def __init__(self, config: QWenVLConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.dropout = config.attn_dropout_prob
        self.c_attn = Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = Linear(config.hidden_size, config.hidden_size, bias_attr=False)

    def forward(self, x: paddle.Tensor, inputs: AttentionInputs, cache: KVCache | None) -> paddle.Tensor:
        """``[batch, length, hidden]`` to the same shape."""
        packed, bias = without_bias(self.c_attn, x)
        rotation = (packed, bias, self.heads, inputs.cos, inputs.sin, inputs.positions)
        if cache is not None:
            key, value = cache.keys[self.layer], cache.values[self.layer]
            query = ops.rotary_qkv_cache(*rotation, key, value, inputs.slots, logn=inputs.logn)
        else:
            query, key, value = ops.rotary_qkv(*rotation, logn=inputs.logn)
            dropout = self.dropout if self.training else 0.0
            if inputs.span_masks is not None:
                return self.c_proj(attention_in_spans(query, key, value, inputs.span_masks, dropout))
            if inputs.dense_mask is not None:
                return self.c_proj(ops.merge_heads(ops.attention(query, key, value, inputs.dense_mask, dropout)))
        attend = ops.attention_decode if x.shape[1] <= ops.FEW_QUERIES else ops.attention_prefill
        out = attend(
            query,
            key,
            value,
            kv_lengths=inputs.kv_lengths,
            query_starts=inputs.slots,
            kv_starts=inputs.kv_starts,
            mask=inputs.mask,
        )
        return self.c_proj(out)


def attention_in_spans(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    span_masks: Sequence[tuple[Span, paddle.Tensor]],
    dropout: float,
) -> paddle.Tensor:
    """Attention of each span over itself: the scores of a row are the sum of its spans' squares, not the row's square.

    Args:
        query, key, value: ``[batch, heads, length, head_dim]``.

    Returns:
        ``[batch, length, heads * head_dim]``.
    """
    batch, _, length, _ = query.shape
    lengths = [[span.end - span.start for span, _ in span_masks if span.row == row] for row in range(batch)]

    def parts(x: paddle.Tensor) -> list[paddle.Tensor]:
        # Split, not sliced: the gradient of a slice is as large as the whole.
        rows = paddle.split(x, batch) if batch > 1 else [x]
        return [part for row, own in zip(rows, lengths) for part in paddle.split(row, own, axis=2)]

    attended = [
        ops.merge_heads(ops.attention(*part, mask, dropout))
        for *part, (_, mask) in zip(parts(query), parts(key), parts(value), span_masks)
    ]
    return paddle.concat(attended, axis=1).reshape([batch, length, -1])


class QWenMLP(nn.Layer):
    """``c_proj(silu(w2 x) * w1 x)``: ``w2`` is the gate and ``w1`` the up projection, not the other way round."""

    def __init__(self, config: QWenVLConfig) -> None:
        super().__init__()
        width = config.intermediate_size // 2
        self.w1 = Linear(config.hidden_size, width, bias_attr=False)
        self.w2 = Linear(config.hidden_size, width, bias_attr=False)
        self.c_proj = Linear(width, config.hidden_size, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.c_proj(ops.swiglu(self.w2(x), self.w1(x)))


class QWenBlock(nn.Layer):
    """Pre-norm transformer block.

    The sum of the block's output and its residual is left to the next norm, which adds them on its way.
    """

    def __init__(self, config: QWenVLConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QWenAttention(config, layer)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QWenMLP(config)

    def forward(
        self,
        x: paddle.Tensor,
        residual: paddle.Tensor | None,
        inputs: AttentionInputs,
        cache: KVCache | None = None,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Output and residual of the block before, to those of this one: ``[batch, length, hidden]`` each."""
        normalized, residual = self.ln_1(x, residual)
        normalized, residual = self.ln_2(self.attn(normalized, inputs, cache), residual)
        return self.mlp(normalized), residual
