"""The launchers of cuda/paddlemix_cuda.h through ctypes, on PyTorch tensors."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .build import CUDA

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class Strides(ctypes.Structure):
    """paddlemix_strides, in elements."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "head", "position")]


class KeyValues(ctypes.Structure):
    """paddlemix_kv; made by :func:`key_values`."""

    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("block_stride", "head_stride", "slot_stride", "block_size")),
        ("block_table", ctypes.c_void_p),
        ("table_width", ctypes.c_int64),
    ]


class Visibility(ctypes.Structure):
    """paddlemix_visibility; made by :func:`visibility`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query_starts", "kv_starts", "kv_lengths", "mask")),
        *((name, ctypes.c_int64) for name in ("mask_batch", "mask_width")),
    ]


C_TYPES = {
    "int": ctypes.c_int,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "paddlemix_strides": Strides,
}


def address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def strides(tensor: torch.Tensor) -> Strides:
    """Of a [batch, heads, length, head_dim] tensor."""
    return Strides(*tensor.stride()[:3])


def key_values(keys: torch.Tensor, values: torch.Tensor, block_table: torch.Tensor | None = None) -> KeyValues:
    """Caches [batch or blocks, heads, slots, head_dim] of the same strides; the caller keeps the tensors alive."""
    width = 0 if block_table is None else block_table.shape[1]
    layout = (*keys.stride()[:3], keys.shape[2])
    return KeyValues(address(keys), address(values), DTYPES[keys.dtype], *layout, address(block_table), width)


def visibility(
    kv_lengths: torch.Tensor,
    query_starts: torch.Tensor | None = None,
    kv_starts: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> Visibility:
    """What the queries may see; the caller keeps the tensors alive."""
    sizes = (0, 0) if mask is None else (mask.shape[0], mask.shape[2])
    return Visibility(address(query_starts), address(kv_starts), address(kv_lengths), address(mask), *sizes)


class LaunchError(RuntimeError):
    """A launcher returned an error."""


class Kernels:
    """``kernels(name, …)`` calls ``paddlemix_cuda_NAME``: tensors or None for pointers, dtypes for their codes.

    libraries: shared libraries that together hold all launchers. stream: gives the CUDA stream to launch on.
    """

    def __init__(self, libraries: Sequence[Path], stream: Callable[[], int | None]) -> None:
        self.stream = stream
        self.functions = {}
        loaded = [ctypes.CDLL(str(path)) for path in libraries]
        for name, (result, arguments) in signatures().items():
            function = next((getattr(library, name) for library in loaded if hasattr(library, name)), None)
            if function is not None:
                function.restype, function.argtypes = result, arguments
                self.functions[name.replace("paddlemix_cuda_", "")] = function

    def __contains__(self, name: str) -> bool:
        return name in self.functions

    def __call__(self, name: str, *arguments: object) -> None:
        error = self.functions[name](*map(as_argument, arguments), self.stream())
        if error:
            raise LaunchError(f"{name}: cudaError {error}")

    def query(self, name: str, *arguments: int) -> int:
        """The result of a function that launches nothing."""
        return self.functions[name](*arguments)


def as_argument(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return address(value)
    if isinstance(value, torch.dtype):
        return DTYPES[value]
    if isinstance(value, (KeyValues, Visibility)):
        return ctypes.addressof(value)
    return value


def signatures() -> dict[str, tuple[type, list[type]]]:
    """Result and argument types of every function that the header declares."""
    text = re.sub(r"//[^\n]*", "", (CUDA / "paddlemix_cuda.h").read_text())
    found = {}
    for result, name, parameters in re.findall(r"(\w+) (paddlemix_cuda_\w+)\(([^)]*)\);", text):
        given = [] if parameters == "void" else parameters.split(",")
        types = [parameter.replace("const ", "").strip().rsplit(" ", 1)[0] for parameter in given]
        found[name] = (C_TYPES[result], [ctypes.c_void_p if "*" in one else C_TYPES[one] for one in types])
    return found
