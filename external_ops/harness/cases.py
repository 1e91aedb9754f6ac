"""One call of a kernel, what it should give, and what PyTorch gives in the same precision; for every operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from . import references as ref
from .ops import Kernels, key_values, strides, visibility

ROWS = (1, 5, 123, 288, 1024)
WIDTHS = (104, 984, 1664, 4096, 11008)
QUICK_ROWS, QUICK_WIDTHS = (1, 5), (104, 984)


@dataclass
class Case:
    """``results`` hold what the kernel wrote, ``exact`` the same in float64, ``plain`` PyTorch's."""

    operator: str
    detail: str
    results: dict[str, torch.Tensor]
    exact: dict[str, torch.Tensor]
    plain: dict[str, torch.Tensor]


@dataclass
class Setting:
    """Where and in which dtype the cases run, and random numbers for them."""

    kernels: Kernels
    device: str
    dtype: torch.dtype
    quick: bool

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(7)

    def normal(self, *shape: int, dtype: torch.dtype | None = None, shift: int = 0) -> torch.Tensor:
        """Contiguous, its first element ``shift`` elements behind a 16-byte boundary."""
        tensor = self.empty(*shape, dtype=dtype, shift=shift)
        tensor.copy_(torch.randn(shape, generator=self.generator, device=self.device))
        return tensor

    def empty(self, *shape: int, dtype: torch.dtype | None = None, shift: int = 0) -> torch.Tensor:
        """NaN all over, so that what a kernel leaves out shows."""
        count = torch.Size(shape).numel()
        whole = torch.full((shift + count,), float("nan"), dtype=dtype or self.dtype, device=self.device)
        return whole[shift:].view(shape)

    def zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self.generator, device=self.device, dtype=torch.int32)

    def shapes(self) -> Iterator[tuple[int, int, int]]:
        """Rows, width, and the shift of the tensors: everything aligned, and once everything not."""
        rows, widths = (QUICK_ROWS, QUICK_WIDTHS) if self.quick else (ROWS, WIDTHS)
        for width in widths:
            yield from ((count, width, 0) for count in rows)
            yield rows[1], width, 1
        yield rows[1], 77, 0


def double(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.double() for tensor in tensors]


def describe(rows: int, width: int, shift: int) -> str:
    return f"{rows} x {width}" + (", unaligned" if shift else "")


def rms_norm(s: Setting) -> Iterator[Case]:
    for rows, width, shift in s.shapes():
        x, residual = (s.normal(rows, width, shift=shift) for _ in range(2))
        weight = s.normal(width)
        out, total = (s.empty(rows, width, shift=shift) for _ in range(2))
        inverse = s.empty(rows, dtype=torch.float32)
        s.kernels("rms_norm", s.dtype, x, residual, weight, ref.EPSILON, out, total, inverse, rows, width)
        added = x + residual
        exact = {"out": ref.rms_norm(*double(added, weight)), "sum": x.double() + residual.double()}
        plain = {"out": ref.rms_norm(added, weight), "sum": added}
        yield Case("rms_norm", describe(rows, width, shift), {"out": out, "sum": total}, exact, plain)

        grad_out, grad_sum = (s.normal(rows, width, shift=shift) for _ in range(2))
        grad_x, grad_weight = s.empty(rows, width, shift=shift), s.zeros(width)
        s.kernels(
            "rms_norm_grad", s.dtype, total, weight, inverse, grad_out, grad_sum, grad_x, grad_weight, rows, width
        )
        yield norm_gradient(
            "rms_norm_grad", describe(rows, width, shift), ref.rms_norm, [total, weight], grad_out, grad_sum,
            {"grad_x": grad_x, "grad_weight": grad_weight},
        )  # fmt: skip


def layer_norm(s: Setting) -> Iterator[Case]:
    for rows, width, shift in s.shapes():
        x, residual = (s.normal(rows, width, shift=shift) for _ in range(2))
        weight, bias = s.normal(width), s.normal(width)
        out, total = (s.empty(rows, width, shift=shift) for _ in range(2))
        mean, inverse = (s.empty(rows, dtype=torch.float32) for _ in range(2))
        s.kernels("layer_norm", s.dtype, x, residual, weight, bias, ref.EPSILON, out, total, mean, inverse, rows, width)
        added = x + residual
        exact = {"out": ref.layer_norm(*double(added, weight, bias)), "sum": x.double() + residual.double()}
        plain = {"out": ref.layer_norm(added, weight, bias), "sum": added}
        yield Case("layer_norm", describe(rows, width, shift), {"out": out, "sum": total}, exact, plain)

        grad_out, grad_sum = (s.normal(rows, width, shift=shift) for _ in range(2))
        grad_x, grad_weight, grad_bias = s.empty(rows, width, shift=shift), s.zeros(width), s.zeros(width)
        s.kernels(
            "layer_norm_grad", s.dtype, total, weight, mean, inverse, grad_out, grad_sum, grad_x, grad_weight,
            grad_bias, rows, width,
        )  # fmt: skip
        yield norm_gradient(
            "layer_norm_grad", describe(rows, width, shift), ref.layer_norm, [total, weight, bias], grad_out, grad_sum,
            {"grad_x": grad_x, "grad_weight": grad_weight, "grad_bias": grad_bias},
        )  # fmt: skip


def norm_gradient(
    operator: str, detail: str, function: Callable, inputs: list[torch.Tensor], grad_out: torch.Tensor,
    grad_sum: torch.Tensor, results: dict[str, torch.Tensor],
) -> Case:  # fmt: skip
    """The gradient that reaches the sum from elsewhere is added to grad_x, the first of the results."""
    exact = list(ref.gradients(function, double(*inputs), grad_out.double()))
    plain = list(ref.gradients(function, inputs, grad_out))
    exact[0], plain[0] = exact[0] + grad_sum.double(), plain[0] + grad_sum
    return Case(operator, detail, results, dict(zip(results, exact)), dict(zip(results, plain)))


def swiglu(s: Setting) -> Iterator[Case]:
    for rows, width, shift in s.shapes():
        packed = s.normal(rows, 2 * width, shift=shift)
        gate, up = packed[:, :width], packed[:, width:]
        out = s.empty(rows, width, shift=shift)
        s.kernels("swiglu", s.dtype, gate, up, 2 * width, out, rows, width)
        exact, plain = {"out": ref.swiglu(*double(gate, up))}, {"out": ref.swiglu(gate, up)}
        yield Case("swiglu", describe(rows, width, shift), {"out": out}, exact, plain)

        grad_out, grad = s.normal(rows, width, shift=shift), s.empty(rows, 2 * width, shift=shift)
        results = {"grad_gate": grad[:, :width], "grad_up": grad[:, width:]}
        s.kernels("swiglu_grad", s.dtype, gate, up, 2 * width, grad_out, *results.values(), rows, width)
        exact = dict(zip(results, ref.gradients(ref.swiglu, double(gate, up), grad_out.double())))
        plain = dict(zip(results, ref.gradients(ref.swiglu, [gate, up], grad_out)))
        yield Case("swiglu_grad", describe(rows, width, shift), results, exact, plain)


def gelu_bias(s: Setting) -> Iterator[Case]:
    for rows, width, shift in s.shapes():
        x, bias = s.normal(rows, width, shift=shift), s.normal(width)
        out = s.empty(rows, width, shift=shift)
        s.kernels("gelu_bias", s.dtype, x, bias, out, rows, width)
        exact, plain = {"out": ref.gelu_bias(*double(x, bias))}, {"out": ref.gelu_bias(x, bias)}
        yield Case("gelu_bias", describe(rows, width, shift), {"out": out}, exact, plain)

        grad_out = s.normal(rows, width, shift=shift)
        results = {"grad_x": s.empty(rows, width, shift=shift), "grad_bias": s.zeros(width)}
        s.kernels("gelu_bias_grad", s.dtype, x, bias, grad_out, *results.values(), rows, width)
        exact = dict(zip(results, ref.gradients(ref.gelu_bias, double(x, bias), grad_out.double())))
        plain = dict(zip(results, ref.gradients(ref.gelu_bias, [x, bias], grad_out)))
        yield Case("gelu_bias_grad", describe(rows, width, shift), results, exact, plain)


def rotary_qkv(s: Setting) -> Iterator[Case]:
    shapes = [(1, 1, 2, 32), (2, 5, 3, 64)] if s.quick else [(1, 1, 32, 128), (3, 7, 4, 64), (2, 123, 32, 128)]
    block_size, table_length = 16, 300
    for batch, length, heads, head_dim in shapes:
        qkv, bias = s.normal(batch, length, 3, heads, head_dim), s.normal(3, heads, head_dim)
        cos, sin = (s.normal(2, table_length, head_dim, dtype=torch.float32) for _ in range(2))
        table_index = s.integers(0, 2, batch)
        positions = s.integers(0, table_length, batch, length)
        logn = s.normal(table_length, dtype=torch.float32)
        slots = s.integers(0, 9, batch)
        blocks_per_row = -(-(length + 9) // block_size)
        order = torch.randperm(batch * blocks_per_row, generator=s.generator, device=s.device)
        block_table = order.to(torch.int32).view(batch, blocks_per_row)
        keys, values = (s.empty(batch * blocks_per_row, heads, block_size, head_dim) for _ in range(2))
        query = s.empty(batch, heads, length, head_dim)
        kv = key_values(keys, values, block_table)
        s.kernels(
            "rotary_qkv", s.dtype, qkv, bias, cos, sin, table_length, table_index, positions, logn, query,
            strides(query), kv, slots, None, batch, length, heads, head_dim,
        )  # fmt: skip
        at = slots[:, None] + torch.arange(length, device=s.device)
        block = block_table.gather(1, (at // block_size).long()).long()
        written = [cache[block, :, at % block_size].transpose(1, 2) for cache in (keys, values)]
        tables = [table[table_index.long()[:, None], positions.long()] for table in (cos, sin)]
        factors = logn[positions.long()]
        exact = ref.rotate(*double(qkv, bias, *tables), factors)
        plain = ref.rotate(qkv, bias, *tables, factors)
        names = ("query", "key", "value")
        detail = f"batch {batch}, {length} tokens, {heads} x {head_dim}, paged"
        yield Case("rotary_qkv", detail, *(dict(zip(names, part)) for part in ((query, *written), exact, plain)))

        grads = [s.normal(batch, heads, length, head_dim) for _ in range(3)]
        grad_qkv = torch.full_like(qkv, float("nan"))
        s.kernels(
            "rotary_qkv_grad", s.dtype, *grads, cos, sin, table_length, table_index, positions, logn, grad_qkv, batch,
            length, heads, head_dim,
        )  # fmt: skip

        def backward(x: torch.Tensor, tables=tables, factors=factors, grads=grads) -> torch.Tensor:
            leaf = x.detach().requires_grad_()
            turned = ref.rotate(leaf, None, *tables, factors)
            return torch.autograd.grad(turned, leaf, [grad.to(x.dtype) for grad in grads])[0]

        exact, plain = {"grad_qkv": backward(qkv.double())}, {"grad_qkv": backward(qkv)}
        yield Case("rotary_qkv_grad", detail, {"grad_qkv": grad_qkv}, exact, plain)


def attention_decode(s: Setting) -> Iterator[Case]:
    shapes = [(2, 2, 1, 64, 40), (1, 2, 3, 104, 70)] if s.quick else [
        (1, 32, 1, 128, 1), (1, 32, 1, 128, 8192), (3, 32, 1, 128, 1150), (2, 16, 8, 104, 300), (5, 4, 3, 64, 77),
    ]  # fmt: skip
    for batch, heads, length, head_dim, slots in shapes:
        for paged in (False, True):
            yield decode_case(s, batch, heads, length, head_dim, slots, paged)


def decode_case(s: Setting, batch: int, heads: int, length: int, head_dim: int, slots: int, paged: bool) -> Case:
    block_size = 16 if paged else slots
    blocks_per_row = -(-slots // block_size)
    keys, values = (s.normal(batch * blocks_per_row, heads, block_size, head_dim) for _ in range(2))
    order = torch.randperm(batch * blocks_per_row, generator=s.generator, device=s.device)
    block_table = order.to(torch.int32).view(batch, blocks_per_row) if paged else None
    query = s.normal(batch, length, heads, head_dim).transpose(1, 2)
    kv_lengths = s.integers(min(length, slots), slots + 1, batch)
    kv_lengths[0] = slots
    query_starts = (kv_lengths - length).clamp(min=0)
    kv_starts = (kv_lengths // 3 - 1).clamp(min=0).to(torch.int32)
    mask = s.normal(1, length, slots, dtype=torch.float32)
    seen = visibility(kv_lengths, query_starts, kv_starts, mask)
    scale = head_dim**-0.5
    out = s.empty(batch, length, heads * head_dim)
    bytes_needed = s.kernels.query("attention_decode_workspace", batch, heads, length, head_dim, slots)
    workspace = torch.empty(max(bytes_needed, 1), dtype=torch.uint8, device=s.device)
    s.kernels(
        "attention_decode", s.dtype, query, strides(query), key_values(keys, values, block_table), seen, scale, out,
        workspace, slots, batch, heads, length, head_dim,
    )  # fmt: skip

    def rows_of(cache: torch.Tensor) -> torch.Tensor:
        if block_table is None:
            return cache
        return cache[block_table.long()].transpose(1, 2).flatten(2, 3)[:, :, :slots]

    inputs = [query, rows_of(keys), rows_of(values)]
    added = ref.visible(length, slots, kv_lengths, query_starts, kv_starts, mask)
    exact = ref.attention(*double(*inputs), added, scale)
    plain = ref.attention(*inputs, added, scale)
    detail = f"batch {batch}, {heads} x {head_dim}, {length} of {slots}" + (", paged" if paged else "")
    return Case("attention_decode", detail, {"out": out}, {"out": exact}, {"out": plain})
