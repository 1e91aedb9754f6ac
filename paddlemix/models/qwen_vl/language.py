"""The decoder's layers: RMSNorm, rotary self-attention with log-n scaling, and the gated feed-forward layer."""

from __future__ import annotations

import paddle
import paddle.nn as nn

from ... import ops
from .attention_metadata import AttentionInputs
from .configuration import QWenVLConfig
from .kv_cache import KVCache
from .layers import Linear, RMSNorm, without_bias


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
        if inputs.span_groups is not None:
            return self.c_proj(self._attend_in_spans(packed, bias, inputs))
        rotation = (packed, bias, self.heads, inputs.cos, inputs.sin, inputs.positions)
        if cache is not None:
            key, value = cache.keys[self.layer], cache.values[self.layer]
            query = ops.rotary_qkv_cache(*rotation, key, value, inputs.slots, logn=inputs.logn)
        else:
            query, key, value = ops.rotary_qkv(*rotation, logn=inputs.logn)
            if inputs.dense_mask is not None:
                attended = ops.attention(query, key, value, inputs.dense_mask, self._dropout())
                return self.c_proj(ops.merge_heads(attended))
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

    def _attend_in_spans(
        self, packed: paddle.Tensor, bias: paddle.Tensor | None, inputs: AttentionInputs
    ) -> paddle.Tensor:
        """Attention of each span over itself: ``[batch, length, 3 * hidden]`` to ``[batch, length, hidden]``.

        The spans of a group are cut out of their rows and become rows of their own, padded to the longest of them.
        """
        batch, length, width = packed.shape
        # Gathered once and split: the gradient of every gathering is as large as the whole.
        gathered = paddle.gather(packed.reshape([-1, width]), inputs.span_slots)
        parts = paddle.split(gathered, [group.positions.size for group in inputs.span_groups])
        attended = []
        for group, part in zip(inputs.span_groups, parts):
            rows = part.reshape([*group.positions.shape, width])
            heads = ops.rotary_qkv(rows, bias, self.heads, inputs.cos, inputs.sin, group.positions, logn=inputs.logn)
            merged = ops.merge_heads(ops.attention(*heads, group.mask, self._dropout()))
            attended.append(merged.reshape([-1, merged.shape[-1]]))
        joined = paddle.concat(attended) if len(attended) > 1 else attended[0]
        return paddle.gather(joined, inputs.span_places).reshape([batch, length, -1])

    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0


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
