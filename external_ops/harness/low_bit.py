"""Random weights of the low-bit products on the device, and the cases of their kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from . import references as ref
from . import tiles
from .cases import Case, Setting

FORMATS = ("float16", "bfloat16", "int8", "int8 groups", "int4")
FEW_ROWS = (1, 2, 5, 8)
MORE_ROWS = (9, 24, 64)  # by matrix instructions alone


@dataclass
class Weight:
    """operator: linear_`operator` multiplies with it; arguments: the kernels' own of the weight; matrix: the same
    weights, float64 [in, out]."""

    operator: str
    arguments: list[object]
    matrix: torch.Tensor

    def bytes(self) -> int:
        return sum(part.nbytes for part in self.arguments if isinstance(part, torch.Tensor))

    def copy_of_arguments(self) -> list[object]:
        return [part.clone() if isinstance(part, torch.Tensor) else part for part in self.arguments]


def gated_arguments(operator: str, gate: list[object], up: list[object]) -> list[object]:
    """What swiglu_`operator` takes of two weights: of one kind, so that dtype or number of groups are said once."""
    if operator == "w16":
        return [gate[1], up[1]]
    return [*gate[:2], *up[:2], *gate[2:]]


def holds(dtype: torch.dtype, form: str) -> bool:
    """Whether a dtype holds every stored weight exactly, so that matrix instructions can be used."""
    return dtype != torch.float32 and form in (str(dtype)[6:], "int8", "int8 groups", "int4")


def make_weight(form: str, in_features: int, out_features: int, device: str, seed: int = 3) -> Weight:
    random = np.random.default_rng(seed)
    shape = (in_features, out_features)

    def on_device(array: np.ndarray) -> torch.Tensor:
        # Older PyTorch has no unsigned 16-bit integers; the kernels see bits.
        return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array).to(device)

    if form in ("float16", "bfloat16"):
        dtype = getattr(torch, form)
        values = torch.from_numpy(random.standard_normal(shape, np.float32)).to(dtype)
        packed = tiles.pack_w16(values.view(torch.int16).numpy().view(np.uint16))
        return Weight("w16", [dtype, on_device(packed)], values.to(device).double())
    groups = 1 if form == "int8" else -(-in_features // tiles.GROUP)
    scales = random.uniform(0.01, 0.03, size=(groups, out_features))
    if form == "int4":
        q, scales = random.integers(-8, 8, shape, np.int16), scales.astype(np.float16)
        parts: list[object] = [on_device(tiles.pack_w4(q)), on_device(tiles.pack_scales(scales))]
    else:
        q, scales = random.integers(-127, 128, shape, np.int16), scales.astype(np.float32)
        parts = [on_device(tiles.pack_w8(q)), on_device(tiles.pack_scales(scales)), groups]
    spread = tiles.scale_of_inputs(scales.astype(np.float32), in_features)
    matrix = torch.from_numpy(q).to(device).double() * torch.from_numpy(spread).to(device)
    return Weight("w4" if form == "int4" else "w8", parts, matrix)


def cases(s: Setting, operator: str) -> Iterator[Case]:
    """Products and matrices of one of w16, w8, w4."""
    shapes = [(104, 40), (300, 17)] if s.quick else [(104, 40), (300, 17), (984, 1664), (4096, 4096), (11008, 4096)]
    for form in FORMATS:
        for in_features, out_features in shapes:
            weight = make_weight(form, in_features, out_features, s.device)
            if weight.operator != operator:
                continue
            for rows in FEW_ROWS:
                for shift in (0, 1):
                    yield product(s, form, weight, rows, shift)
            if holds(s.dtype, form) and in_features % 8 == 0:
                for rows in MORE_ROWS:
                    yield product(s, form, weight, rows, 0)
                other = make_weight(form, in_features, out_features, s.device, seed=4)
                yield gated(s, form, weight, other, 1)
                yield gated(s, form, weight, other, 8)
            out = s.empty(in_features, out_features)
            s.kernels(f"dequantize_{operator}", s.dtype, *weight.arguments, out, in_features, out_features)
            exact, plain = {"out": weight.matrix}, {"out": weight.matrix.to(s.dtype)}
            yield Case(f"dequantize_{operator}", f"{form}, {in_features} x {out_features}", {"out": out}, exact, plain)


def product(s: Setting, form: str, weight: Weight, rows: int, shift: int) -> Case:
    in_features, out_features = weight.matrix.shape
    x = s.normal(rows, in_features + shift, shift=shift)[:, :in_features]
    bias, out = s.normal(out_features), s.empty(rows, out_features)
    s.kernels(
        f"linear_{weight.operator}", s.dtype, x, x.stride(0), *weight.arguments, bias, out, rows, in_features,
        out_features,
    )  # fmt: skip
    exact = torch.addmm(bias.double(), x.double(), weight.matrix)
    plain = torch.nn.functional.linear(x, weight.matrix.to(s.dtype).t(), bias)
    detail = f"{form}, {rows} x {in_features} x {out_features}" + (", unaligned" if shift else "")
    return Case(f"linear_{weight.operator}", detail, {"out": out}, {"out": exact}, {"out": plain})


def gated(s: Setting, form: str, gate: Weight, up: Weight, rows: int) -> Case:
    in_features, out_features = gate.matrix.shape
    x = s.normal(rows, in_features) * in_features**-0.5
    out = s.empty(rows, out_features)
    weights = gated_arguments(gate.operator, gate.arguments, up.arguments)
    s.kernels(f"swiglu_{gate.operator}", s.dtype, x, in_features, *weights, out, rows, in_features, out_features)
    exact = ref.swiglu(x.double() @ gate.matrix, x.double() @ up.matrix)
    plain = ref.swiglu(*(x @ weight.matrix.to(s.dtype) for weight in (gate, up)))
    detail = f"{form}, {rows} x {in_features} x 2 * {out_features}"
    return Case(f"swiglu_{gate.operator}", detail, {"out": out}, {"out": exact}, {"out": plain})


def plain_weights(s: Setting) -> Iterator[Case]:
    """Weights of 16 bits, row by row."""
    if s.dtype == torch.float32:
        return
    shapes = [(104, 40), (328, 136)] if s.quick else [(104, 40), (4096, 4096), (4096, 12288), (11008, 4096)]
    for in_features, out_features in shapes:
        weight = s.normal(in_features, out_features)
        for rows in FEW_ROWS:
            x, bias, out = s.normal(rows, in_features), s.normal(out_features), s.empty(rows, out_features)
            s.kernels("linear", s.dtype, x, in_features, weight, bias, out, rows, in_features, out_features)
            exact = torch.addmm(bias.double(), x.double(), weight.double())
            plain = torch.addmm(bias, x, weight)
            detail = f"{rows} x {in_features} x {out_features}"
            yield Case("linear", detail, {"out": out}, {"out": exact}, {"out": plain})
