"""What the operators compute, in plain PyTorch: in float64 the exact answer, in the kernels' dtype PyTorch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPSILON = 1e-6


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, EPSILON)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def gelu_bias(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.gelu(x + bias)


def gradients(function, inputs: list[torch.Tensor], grad_out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(function(*leaves), leaves, grad_out)


def widest(*dtypes: torch.dtype) -> torch.dtype:
    """float64 among float64, float32 among the rest: what the rotation is computed in."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def rotate(
    qkv: torch.Tensor, bias: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor, logn: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query, key, value [batch, heads, length, head_dim] in qkv's dtype.

    qkv: [batch, length, 3, heads, head_dim]; bias: [3, heads, head_dim]; cos, sin: [batch, length, head_dim] of each
    token; logn: [batch, length].
    """
    wide = widest(qkv.dtype)
    x = qkv.to(wide) if bias is None else qkv.to(wide) + bias.to(wide)
    query, key, value = x.permute(2, 0, 3, 1, 4)
    cos, sin = cos.to(wide)[:, None], sin.to(wide)[:, None]
    half = query.shape[-1] // 2
    query, key = (part * cos + part.roll(half, -1) * sin for part in (query, key))
    if logn is not None:
        query = query * logn.to(wide)[:, None, :, None]
    return query.to(qkv.dtype), key.to(qkv.dtype), value.to(qkv.dtype)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, added: torch.Tensor, scale: float
) -> torch.Tensor:
    """[batch, length, heads * head_dim]; added: [batch, length, slots], -inf where a query may not see.

    A query that sees nothing gets zeros.
    """
    added = added.to(query.dtype)[:, None]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=scale)
    blind = torch.isneginf(added).all(-1, keepdim=True)
    return torch.where(blind, torch.zeros_like(out), out).transpose(1, 2).flatten(2)


def visible(
    length: int,
    slots: int,
    kv_lengths: torch.Tensor,
    query_starts: torch.Tensor | None,
    kv_starts: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """The additive float64 mask [batch, length, slots] of paddlemix_visibility."""
    slot = torch.arange(slots, device=kv_lengths.device)
    seen = (slot < kv_lengths[:, None])[:, None].expand(-1, length, -1)
    if kv_starts is not None:
        seen = seen & (slot >= kv_starts[:, None])[:, None]
    if query_starts is not None:
        last = query_starts[:, None] + torch.arange(length, device=slot.device)
        seen = seen & (slot <= last[..., None])
    added = torch.zeros(seen.shape, dtype=torch.float64, device=slot.device)
    if mask is not None:
        added = added + mask[..., :slots].double()
    return added.masked_fill(~seen, float("-inf"))
