"""The CUDA kernels on the CPU: the very .cu files, compiled by g++ with external_ops/harness/emulate, on NumPy arrays.

``emulated("rms_norm")`` gives the launchers of that file. Arrays that a kernel reads or writes come from ``arrays``,
which puts NaN around each and checks at the end of the test that nothing was written there; a read out of bounds shows
as NaN. For an exact answer run the tests under AddressSanitizer, without the conftest files above, which load Paddle:

    PADDLEMIX_SANITIZE=1 LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \\
        pytest --confcutdir=tests/ops/cuda tests/ops/cuda

Arithmetic, indexing and barriers are proven here; speed, and races between warps beyond two orders of running, are not.

On a machine with a GPU and nvcc the same tests run on the real device, in page-locked memory that both sides address:

    PADDLEMIX_CUDA_DEVICE=1 pytest --confcutdir=tests/ops/cuda tests/ops/cuda
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
SANITIZE = os.environ.get("PADDLEMIX_SANITIZE") == "1"
ON_DEVICE = os.environ.get("PADDLEMIX_CUDA_DEVICE") == "1"
MARGIN = 256  # bytes around an array

emulation_only = pytest.mark.skipif(ON_DEVICE, reason="asks for a device of another kind, which only an emulation is")

Address = ctypes.c_void_p
Int = ctypes.c_int
Int64 = ctypes.c_int64
Float = ctypes.c_float
Double = ctypes.c_double


def load_build_module():
    path = ROOT / "external_ops/harness/emulate/build.py"
    spec = importlib.util.spec_from_file_location("paddlemix_emulation_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def cuda_runtime() -> ctypes.CDLL:
    """The CUDA runtime of the toolkit, or of PyTorch's packages."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12", f"{home}/lib64/libcudart.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("libcudart.so is not found; name the toolkit's folder in CUDA_HOME")


class PageLocked:
    """malloc and free of host memory that a GPU addresses too."""

    MAPPED = 2

    def malloc(self, size: int) -> int:
        address = Address()
        error = cuda_runtime().cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(self.MAPPED))
        assert error == 0, f"cudaHostAlloc returned the CUDA error {error}"
        return address.value

    def free(self, address: int) -> None:
        cuda_runtime().cudaFreeHost(Address(address))


@functools.cache
def load_library(name: str) -> ctypes.CDLL:
    if ON_DEVICE:
        from external_ops.harness.build import build

        return ctypes.CDLL(str(build()))
    return ctypes.CDLL(str(load_build_module().build(name, SANITIZE)))


@dataclass(frozen=True)
class DType:
    """One of the kernels' dtypes; NumPy has no bfloat16, its bits stand in uint16."""

    name: str
    code: int
    storage: type
    eps: float

    def encode(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, np.float32)
        if self.name != "bfloat16":
            return values.astype(self.storage)
        bits = values.view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        if self.name != "bfloat16":
            return stored.astype(np.float64)
        with np.errstate(invalid="ignore"):  # signalling NaN
            return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def round(self, values: np.ndarray) -> np.ndarray:
        return self.decode(self.encode(values))


FLOAT32 = DType("float32", 0, np.float32, 2.0**-24)
FLOAT16 = DType("float16", 2, np.float16, 2.0**-11)
BFLOAT16 = DType("bfloat16", 3, np.uint16, 2.0**-8)


class Arrays:
    """Memory for the kernels, with margins of NaN (all bits set); under AddressSanitizer of the exact size instead."""

    def __init__(self):
        self.guarded = []
        if ON_DEVICE:
            self.c = PageLocked()
            return
        self.c = ctypes.CDLL(None)
        self.c.malloc.restype = Address
        self.c.malloc.argtypes = [ctypes.c_size_t]
        self.c.free.argtypes = [Address]

    def place(self, array: np.ndarray, offset: int = 0) -> np.ndarray:
        """A copy of ``array``, aligned to 16 bytes plus ``offset`` elements."""
        array = np.ascontiguousarray(array)
        assert array.dtype != np.float64, "no kernel takes float64"
        start = offset * array.itemsize
        margin = 0 if SANITIZE else MARGIN
        total = margin + start + array.nbytes + margin
        address = self.c.malloc(max(total, 1))
        raw = np.frombuffer((ctypes.c_uint8 * total).from_address(address), np.uint8)
        raw[:] = 0xFF
        placed = raw[margin + start : margin + start + array.nbytes].view(array.dtype).reshape(array.shape)
        placed[...] = array
        self.guarded.append((address, raw, margin + start, margin))
        return placed

    def empty(self, shape, dtype, offset: int = 0) -> np.ndarray:
        """Unwritten memory: all bits set, which is NaN for floats."""
        count = int(np.prod(shape))
        bits = np.full(count * np.dtype(dtype).itemsize, 0xFF, np.uint8)
        return self.place(bits.view(dtype).reshape(shape), offset)

    def check_margins(self):
        for _, raw, before, after in self.guarded:
            assert (raw[:before] == 0xFF).all(), "the kernel wrote before an array"
            assert (raw[len(raw) - after :] == 0xFF).all(), "the kernel wrote behind an array"

    def free(self):
        for address, *_ in self.guarded:
            self.c.free(address)


class Launchers:
    """The functions of one .cu file; ``launch`` takes NumPy arrays (or None) for pointers and checks the error code."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def launch(self, name: str, *arguments) -> None:
        error = getattr(self.library, f"paddlemix_cuda_{name}")(*map(as_argument, arguments), None)
        if ON_DEVICE and error == 0:
            error = cuda_runtime().cudaDeviceSynchronize()
        assert error == 0, f"{name} returned the CUDA error {error}"

    def call_int64(self, name: str, *arguments) -> int:
        """The result of a function that launches nothing."""
        function = getattr(self.library, f"paddlemix_cuda_{name}")
        function.restype = Int64
        return function(*map(as_argument, arguments))

    def set_descending(self, descending: bool) -> None:
        if not ON_DEVICE:
            ctypes.c_int.in_dll(self.library, "paddlemix_emulation_descending").value = int(descending)

    def set_multiprocessors(self, count: int) -> None:
        if not ON_DEVICE:
            self.library.paddlemix_emulation_set_multiprocessors(count)

    def set_capability(self, major: int) -> None:
        if not ON_DEVICE:
            self.library.paddlemix_emulation_set_capability(major)


def as_argument(value):
    """ctypes' counterpart: arrays and None are pointers, Python ints int64, floats double; ctypes values stay."""
    if value is None:
        return Address(None)
    if isinstance(value, np.ndarray):
        return Address(value.ctypes.data)
    if isinstance(value, (bool, int, np.integer)):
        return Int64(int(value))
    if isinstance(value, float):
        return Double(value)
    return value


class Strides(ctypes.Structure):
    """paddlemix_strides, in elements."""

    _fields_ = [("batch", Int64), ("head", Int64), ("position", Int64)]


class KeyValueDescription(ctypes.Structure):
    """paddlemix_kv."""

    _fields_ = [
        ("keys", Address), ("values", Address), ("dtype", Int), ("block_stride", Int64), ("head_stride", Int64),
        ("slot_stride", Int64), ("block_size", Int64), ("block_table", Address), ("table_width", Int64),
    ]  # fmt: skip


class Visibility(ctypes.Structure):
    """paddlemix_visibility."""

    _fields_ = [
        ("query_starts", Address), ("kv_starts", Address), ("kv_lengths", Address), ("mask", Address),
        ("mask_batch", Int64), ("mask_width", Int64),
    ]  # fmt: skip


class KeyValues:
    """Keys and values for the kernels, contiguous [batch, heads, capacity, head_dim] or in shuffled blocks."""

    def __init__(self, arrays: Arrays, dtype: DType, stored: list[np.ndarray], table: np.ndarray | None, offset: int):
        self.dtype, self.table = dtype, None if table is None else arrays.place(table)
        self.keys, self.values = (arrays.place(array, offset) for array in stored)
        _, heads, block_size, head_dim = self.keys.shape
        self.description = KeyValueDescription(
            self.keys.ctypes.data, self.values.ctypes.data, dtype.code, heads * block_size * head_dim,
            block_size * head_dim, head_dim, block_size, None if table is None else self.table.ctypes.data,
            0 if table is None else table.shape[1],
        )  # fmt: skip

    @classmethod
    def empty(cls, arrays, dtype, batch, heads, capacity, head_dim, block_size, random, offset=0) -> KeyValues:
        """All NaN. ``block_size`` divides ``capacity``, or is None: not paged. There is one block more than needed."""
        shape, table = (batch, heads, capacity, head_dim), None
        if block_size is not None:
            per_row = capacity // block_size
            shape = (batch * per_row + 1, heads, block_size, head_dim)
            table = random.permutation(shape[0])[:-1].reshape(batch, per_row).astype(np.int32)
        nan = dtype.encode(np.full(shape, np.nan))
        return cls(arrays, dtype, [nan, nan], table, offset)

    def blocks(self, row: int):
        """Indices of the blocks of a row, in order."""
        return [row] if self.table is None else list(self.table[row])

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of a row, [heads, capacity, head_dim] in float64."""
        both = (np.concatenate([array[b] for b in self.blocks(row)], 1) for array in (self.keys, self.values))
        return tuple(map(self.dtype.decode, both))

    def write(self, row: int, start: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Put [heads, slots, head_dim] at the slots of a row from ``start`` on."""
        block_size = self.keys.shape[2]
        for array, new in ((self.keys, keys), (self.values, values)):
            encoded = self.dtype.encode(new)
            for i in range(encoded.shape[1]):
                block = self.blocks(row)[(start + i) // block_size]
                array[block, :, (start + i) % block_size] = encoded[:, i]


def assert_accurate(result, exact, plain, dtype: DType, scale=None) -> None:
    """|result - exact| <= 2 * the largest error of ``plain`` + 4 eps scale; NaN and Inf stand where they should.

    ``exact`` is computed in float64, ``plain`` the way a framework does it in ``dtype``; ``scale`` is the size of the
    numbers, by default that of the largest result.
    """
    result, exact, plain = (np.asarray(a, np.float64) for a in (result, exact, plain))
    assert result.shape == exact.shape
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(result[~finite], exact[~finite])
    if not finite.any():
        return
    if scale is None:
        scale = np.abs(exact[finite]).max()
    bound = 2 * np.abs(plain[finite] - exact[finite]).max() + 4 * dtype.eps * scale
    error = np.abs(result[finite] - exact[finite]).max()
    assert error <= bound, f"error {error:g}, allowed {bound:g}"
