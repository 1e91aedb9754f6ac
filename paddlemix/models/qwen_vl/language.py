"""The decoder's layers: RMSNorm, rotary self-attention with log-n scaling, and the gated feed-forward layer."""

from __future__ import annotations

import paddle
import paddle.nn as nn

from ... import ops
from .attention_inputs import AttentionInputs
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
            if inputs.dense_mask is not None:
                dropout = self.dropout if self.training else 0.0
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
