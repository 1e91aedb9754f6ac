"""Compares every operator with float64.

The rule: the largest error is at most twice that of PyTorch's operator in the same precision, plus 4 eps times the
largest number; NaN and infinity stand where they stand in the exact result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch

from . import cases, low_bit
from .cases import Case, Setting
from .ops import Kernels

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OPERATORS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "rms_norm": cases.rms_norm,
    "layer_norm": cases.layer_norm,
    "swiglu": cases.swiglu,
    "gelu_bias": cases.gelu_bias,
    "rotary_qkv": cases.rotary_qkv,
    "attention_decode": cases.attention_decode,
    "linear": low_bit.plain_weights,
    **{f"linear_{name}": functools.partial(low_bit.cases, operator=name) for name in ("w16", "w8", "w4")},
}


def failure_of(result: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor) -> str | None:
    """How the result breaks the rule; None if it does not."""
    result64, plain64 = result.double(), plain.double()
    finite = torch.isfinite(exact)
    if not torch.equal(torch.isfinite(result64), finite):
        return f"{int((torch.isfinite(result64) != finite).sum())} values are not finite, or should not be"
    if not finite.any():
        return None
    error = (result64 - exact)[finite].abs().max().item()
    scale = exact[finite].abs().max().item()
    plain_error = (plain64 - exact)[finite].abs().max().item()
    bound = 2 * plain_error + 4 * torch.finfo(result.dtype).eps * scale
    return None if error <= bound else f"error {error:.3g}, allowed {bound:.3g} (PyTorch {plain_error:.3g})"


def check(kernels: Kernels, device: str, operators: Sequence[str], quick: bool = False) -> list[str]:
    """Runs the cases and prints a line for each operator and dtype; returns the failures."""
    failures = []
    for operator in operators:
        if operator not in kernels:
            failures.append(f"{operator}: the library has no such launcher")
            continue
        for dtype in DTYPES:
            count, broken = 0, []
            for case in OPERATORS[operator](Setting(kernels, device, dtype, quick)):
                for name, result in case.results.items():
                    count += 1
                    found = failure_of(result, case.exact[name], case.plain[name])
                    if found is not None:
                        broken.append(f"{case.operator} {str(dtype)[6:]} ({case.detail}), {name}: {found}")
            print(f"{operator} {str(dtype)[6:]}: {count} results, {len(broken)} wrong", flush=True)
            failures += broken
    return failures
