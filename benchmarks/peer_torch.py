"""The same layers in plain PyTorch (2.4 or newer), as the peer of ``bench_model.py`` and ``bench_cpu.py``; needs no
Paddle.

As one would write it in PyTorch: fused attention, RMSNorm and layer norm, weights ``[out, in]``, a preallocated cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.shapes import CACHED, PATCHES, PROMPT, QUERIES, Shapes


def weight(out: int, width: int) -> torch.Tensor:
    return torch.randn(out, width) * width**-0.5


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class DecoderLayer:
    def __init__(self, shapes: Shapes) -> None:
        hidden, ffn = shapes.hidden, shapes.ffn
        self.heads, self.norm = shapes.heads, torch.ones(hidden)
        self.qkv, self.qkv_bias, self.out = weight(3 * hidden, hidden), torch.randn(3 * hidden), weight(hidden, hidden)
        self.up, self.gate, self.down = weight(ffn, hidden), weight(ffn, hidden), weight(hidden, ffn)
        self.cache = torch.randn(2, 1, shapes.heads, CACHED + 1, hidden // shapes.heads)

    def __call__(self, x: torch.Tensor, past: int, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        end = past + x.shape[1]
        normalized = F.rms_norm(x, self.norm.shape, self.norm, 1e-6)
        query, key, value = F.linear(normalized, self.qkv, self.qkv_bias).chunk(3, -1)
        self.cache[0, :, :, past:end] = rotate(split_heads(key, self.heads), cos, sin)
        self.cache[1, :, :, past:end] = split_heads(value, self.heads)
        query = rotate(split_heads(query, self.heads), cos, sin)
        attended = F.scaled_dot_product_attention(query, *self.cache[:, :, :, :end], is_causal=past == 0)
        x = x + F.linear(merge_heads(attended), self.out)
        normalized = F.rms_norm(x, self.norm.shape, self.norm, 1e-6)
        return x + F.linear(F.silu(F.linear(normalized, self.gate)) * F.linear(normalized, self.up), self.down)


class VisualLayer:
    def __init__(self, shapes: Shapes) -> None:
        width, mlp = shapes.vit_width, shapes.vit_mlp
        self.heads, self.scale, self.shift = shapes.vit_heads, torch.ones(width), torch.zeros(width)
        sizes = ((3 * width, width), (width, width), (mlp, width), (width, mlp))
        self.qkv, self.out, self.fc, self.proj = [(weight(*size), torch.randn(size[0])) for size in sizes]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        normalized = F.layer_norm(x, self.scale.shape, self.scale, self.shift, 1e-6)
        packed = split_heads(F.linear(normalized, *self.qkv), self.heads)
        x = x + F.linear(merge_heads(F.scaled_dot_product_attention(*packed.chunk(3, -1))), *self.out)
        normalized = F.layer_norm(x, self.scale.shape, self.scale, self.shift, 1e-6)
        return x + F.linear(F.gelu(F.linear(normalized, *self.fc)), *self.proj)


class Resampler:
    def __init__(self, shapes: Shapes) -> None:
        hidden = shapes.hidden
        # The published model's resampler has heads of 128, as the decoder has.
        self.heads, self.scale, self.shift = shapes.heads, torch.ones(hidden), torch.zeros(hidden)
        self.kv = weight(hidden, shapes.vit_width)
        self.projections = [(weight(hidden, hidden), torch.randn(hidden)) for _ in range(3)]
        self.out = (weight(hidden, hidden), torch.randn(hidden))
        self.query, self.positions = torch.randn(QUERIES, hidden), torch.randn(QUERIES, hidden)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        value = F.layer_norm(F.linear(x, self.kv), self.scale.shape, self.scale, self.shift, 1e-6)
        side, target = round(QUERIES**0.5), round(x.shape[1] ** 0.5)
        grid = self.positions.T.reshape(1, -1, side, side)
        key = value + F.interpolate(grid, size=(target, target), mode="bicubic").flatten(2).transpose(1, 2)
        query = F.layer_norm(self.query, self.scale.shape, self.scale, self.shift, 1e-6) + self.positions
        inputs = (query[None], key, value)
        heads = (split_heads(F.linear(t, *projection), self.heads) for t, projection in zip(inputs, self.projections))
        return F.linear(merge_heads(F.scaled_dot_product_attention(*heads)), *self.out)


def through(layers: list, x: torch.Tensor, *inputs: object) -> torch.Tensor:
    for layer in layers:
        x = layer(x, *inputs)
    return x


def seconds(run: Callable[[], object], layers: int, times: int) -> list[float]:
    result = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        result.append((time.perf_counter() - start) / layers)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the layers for bench_model.py: a round for each line read.")
    for name in ("--lm-layers", "--vit-layers", "--threads", "--shrink"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_default_dtype(getattr(torch, options.dtype))
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    shapes = Shapes().shrunk(options.shrink)
    decoder = [DecoderLayer(shapes) for _ in range(options.lm_layers)]
    visual = [VisualLayer(shapes) for _ in range(options.vit_layers)]
    resampler = Resampler(shapes)
    token, prompt = torch.randn(1, 1, shapes.hidden), torch.randn(1, PROMPT, shapes.hidden)
    patches = torch.randn(1, PATCHES, shapes.vit_width)
    head_dim = shapes.hidden // shapes.heads
    cos, sin = torch.randn(PROMPT + 1, head_dim), torch.randn(PROMPT + 1, head_dim)
    work = {
        "vit": (lambda: through(visual, patches), options.vit_layers, 1),
        "resampler": (lambda: resampler(patches), 1, 2),
        "prefill": (lambda: through(decoder, prompt, 0, cos[:PROMPT], sin[:PROMPT]), options.lm_layers, 1),
        "decode": (lambda: through(decoder, token, CACHED, cos[CACHED:], sin[CACHED:]), options.lm_layers, 8),
    }
    for run, _, _ in work.values():
        run()
    print(f"PyTorch {torch.__version__}, {options.dtype}, {torch.get_num_threads()} threads", flush=True)
    for _ in sys.stdin:
        print(json.dumps({name: seconds(*workload) for name, workload in work.items()}), flush=True)


if __name__ == "__main__":
    main()
