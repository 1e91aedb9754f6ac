"""The decoder's layers: RMSNorm, rotary self-attention with log-n scaling, and the gated feed-forward layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn as nn

from ... import ops
from .configuration import QWenVLConfig
from .kv_cache import KVCache


@dataclass(frozen=True)
class AttentionInputs:
    """What every layer's attention needs besides the hidden states; computed once for all layers.

    Attributes:
        cos, sin: float32 ``[(batch, 1,) length, head_dim]``, for the rotation.
        logn: float32 ``[(batch, 1,) length, 1]``, factors for the queries; ``None`` where all are 1.
        mask: additive float32 ``[(batch, 1,) length, kv_length]``.

    Where all rows are alike the first two axes are missing, see ``drop_single_row``.
    """

    cos: paddle.Tensor
    sin: paddle.Tensor
    logn: paddle.Tensor | None
    mask: paddle.Tensor


def drop_single_row(table: paddle.Tensor | None) -> paddle.Tensor | None:
    """``[1, 1, length, x]`` as ``[length, x]``: Paddle broadcasts several times faster over missing axes on a CPU."""
    return table if table is None or table.shape[0] > 1 else table.reshape(table.shape[2:])


class RMSNorm(nn.Layer):
    def __init__(self, hidden_size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return ops.rms_norm(x, self.weight, self.epsilon)[0]


class QWenAttention(nn.Layer):
    """Causal self-attention. Only ``c_attn`` has a bias."""

    def __init__(self, config: QWenVLConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.dropout = config.attn_dropout_prob
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size, bias_attr=False)

    def forward(self, x: paddle.Tensor, inputs: AttentionInputs, cache: KVCache | None) -> paddle.Tensor:
        """``[batch, length, hidden]`` to the same shape."""
        query, key, value = (ops.split_heads(part, self.heads) for part in self.c_attn(x).chunk(3, axis=-1))
        query = ops.apply_rotary(query, inputs.cos, inputs.sin)
        key = ops.apply_rotary(key, inputs.cos, inputs.sin)
        if inputs.logn is not None:
            query = query * inputs.logn.astype(query.dtype)
        if cache is not None:
            key, value = cache.write(self.layer, key, value)
        out = ops.attention(query, key, value, inputs.mask, self.dropout if self.training else 0.0)
        return self.c_proj(ops.merge_heads(out))


class QWenMLP(nn.Layer):
    """``c_proj(silu(w2 x) * w1 x)``: ``w2`` is the gate and ``w1`` the up projection, not the other way round."""

    def __init__(self, config: QWenVLConfig) -> None:
        super().__init__()
        width = config.intermediate_size // 2
        self.w1 = nn.Linear(config.hidden_size, width, bias_attr=False)
        self.w2 = nn.Linear(config.hidden_size, width, bias_attr=False)
        self.c_proj = nn.Linear(width, config.hidden_size, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.c_proj(ops.swiglu(self.w2(x), self.w1(x)))


class QWenBlock(nn.Layer):
    """Pre-norm transformer block."""

    def __init__(self, config: QWenVLConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QWenAttention(config, layer)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QWenMLP(config)

    def forward(self, x: paddle.Tensor, inputs: AttentionInputs, cache: KVCache | None = None) -> paddle.Tensor:
        x = x + self.attn(self.ln_1(x), inputs, cache)
        return x + self.mlp(self.ln_2(x))


def rotary_base(config: QWenVLConfig, alpha: float) -> float:
    """The rotary base stretched by the NTK factor (``base * alpha ** (d / (d - 2))``)."""
    return float(config.rotary_emb_base * alpha ** (config.kv_channels / (config.kv_channels - 2)))


def rotary_inputs(positions: np.ndarray, config: QWenVLConfig, alpha: float) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Cosines and sines, two float32 ``[batch or 1, 1, length, head_dim]``, for positions ``[batch or 1, length]``."""
    longest = int(positions.max()) + 1
    # Rounded up, so that a conversation of growing length reuses one table.
    table_length = -(-longest // 1024) * 1024
    tables = ops.rotary_tables(table_length, config.kv_channels, rotary_base(config, alpha))
    cos, sin = (paddle.to_tensor(table[positions][:, None]) for table in tables)
    return cos, sin


def logn_inputs(positions: np.ndarray, config: QWenVLConfig) -> paddle.Tensor | None:
    """Query factors ``max(1, log(p + 1) / log(seq_length))``, float32 ``[batch or 1, 1, length, 1]``; None if all 1."""
    if not config.use_logn_attn or positions.max() < config.seq_length:
        return None
    factors = np.maximum(1.0, np.log(positions + 1.0) / np.log(config.seq_length))
    return paddle.to_tensor(factors.astype(np.float32)[:, None, :, None])


def attention_mask(
    length: int, past: int, kv_length: int, padding_mask: paddle.Tensor | None, dtype: paddle.dtype
) -> paddle.Tensor:
    """The additive float32 mask ``[batch or 1, 1, length, kv_length]``: strictly causal, pictures included.

    Args:
        length: number of new positions; they stand at ``past .. past + length - 1``.
        past: number of positions in the cache.
        kv_length: number of keys, unused room of the cache included; it lies in the causal future, hence is masked.
        padding_mask: ``[batch, up to kv_length]`` of ones and zeros, or bool ``[batch, length, kv_length]`` (true: may
            be seen), with which several samples share a row.
        dtype: the model's dtype, whose lowest finite value is the mask; a row without any visible key stays finite.
    """
    lowest = float(paddle.finfo(dtype).min)
    query_positions = np.arange(past, past + length)[:, None]
    visible = paddle.to_tensor(np.arange(kv_length)[None, :] <= query_positions)[None, None]
    if padding_mask is not None:
        allowed = padding_mask.astype("bool")
        if allowed.ndim == 2:
            allowed = allowed[:, None, :]
        if allowed.shape[-1] < kv_length:
            fill = paddle.ones([*allowed.shape[:-1], kv_length - allowed.shape[-1]], dtype="bool")
            allowed = paddle.concat([allowed, fill], axis=-1)
        visible = paddle.logical_and(visible, allowed[:, None])
    return (1.0 - visible.astype("float32")) * lowest
