"""Packed weights as NumPy arrays: making them chunk by chunk, handing them to Paddle, reading them back."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator

import numpy as np
import paddle

from ..checkpoint import dtypes
from ..ops.linear_nf4 import (
    dequantize_nf4,
    lay_out_scales,
    pack_nf4,
    quantize_nf4,
    quantize_scales,
    unpack_nf4,
)
from ..ops.linear_nf4 import (
    read_scales as read_scales,
)
from ..ops.linear_w4 import dequantize_w4, pack_w4, quantize_w4
from ..ops.linear_w8 import dequantize_w8, quantize_w8
from ..ops.linear_w16 import dequantize_w16, pack_w16
from ..utils.paddle_internals import paddle_dtype
from .plan import INT4, INT8, NF4, TILE, padded_inputs, tile_arrays

#: elements of a float chunk; about three such chunks are alive at a time
CHUNK = 8 << 20
INT8_PER_LINE = 4
_HUGE_PAGE = 2 << 20
_ZERO = {INT4: 0x88, INT8: 0x80}
"""What a byte of zero weights is; of 16-bit formats, 0."""


class PackedWeight:
    """The tiles and scales of one linear layer, to be filled chunk by chunk.

    Attributes:
        weight, scales, nested: arrays of ``plan.tile_arrays``; bfloat16 as uint16. Those of nf4's scales are complete
            after :meth:`finish`.
    """

    def __init__(self, kind: str, in_features: int, out_features: int) -> None:
        self.kind, self.in_features, self.out_features = kind, in_features, out_features
        arrays = tile_arrays(kind, in_features, out_features)
        self.weight = aligned_empty(*arrays["qweight"])
        self.scales = aligned_empty(*arrays["scales"]) if "scales" in arrays else None
        self.nested = aligned_empty(*arrays["nested"]) if "nested" in arrays else None
        # of nf4, the scales until all are known, which are quantized together
        self._absmax = np.zeros(arrays["scales"][0], np.float32) if kind == NF4 else None

    def chunks(self) -> Iterator[slice]:
        """The outputs in runs of whole tiles, each of at most about ``CHUNK`` elements."""
        width = max(1, CHUNK // max(1, self.in_features) // TILE) * TILE
        for start in range(0, self.out_features, width):
            yield slice(start, min(start + width, self.out_features))

    def quantize(self, columns: slice, values: np.ndarray, rows: slice | None = None) -> None:
        """Round the float32 weights ``[in, columns]`` to this format.

        Args:
            columns: of this weight.
            values: of these columns.
            rows: those of ``values`` that are this weight's, where its scales depend on more; begins at a line.
        """
        w = _tensor(values)
        if self.kind == INT4:
            self._put(columns, *quantize_w4(w))
        elif self._absmax is not None:
            weight, scales = quantize_nf4(w)
            self._put(columns, weight)
            self._absmax[self._tiles(columns)] = scales.numpy()
        elif self.kind == INT8:
            weight, scales = quantize_w8(w)
            if rows is not None:
                weight = _tensor(take_lines(INT8, weight.numpy(), rows, INT8_PER_LINE))
            self._put(columns, weight, scales)
        else:
            self._put(columns, pack_w16(w, self.kind))

    def put_int4(self, columns: slice, q: np.ndarray, scales: np.ndarray) -> None:
        """Take integers -8..7, int8 ``[in, columns]``, and their scales, float16 ``[in / 128, columns]``, as given."""
        groups, width = scales.shape
        padded = np.zeros((-(-width // TILE) * TILE, groups), np.float16)
        padded[:width] = scales.T
        tiles = padded.reshape(-1, TILE, groups).transpose(0, 2, 1)
        self._put(columns, pack_w4(_tensor(q)), _tensor(tiles))

    def put_nf4(self, columns: slice, codes: np.ndarray) -> None:
        """Take codes 0..15 of nf4, uint8 ``[in, columns]``; their scales come with :meth:`put_nf4_scales`."""
        self._put(columns, pack_nf4(_tensor(codes.astype(np.int8))))

    def put_nf4_scales(self, codes: np.ndarray, factors: np.ndarray, values: np.ndarray, offset: float) -> None:
        """Take quantized scales as given; see :func:`~paddlemix.ops.linear_nf4.lay_out_scales`."""
        self._absmax = None
        self._put_scales(*lay_out_scales(codes, factors, values, offset, self.in_features, self.out_features))

    def finish(self) -> None:
        """Quantize the scales of nf4, after the last columns. Other formats have nothing left to do."""
        if self._absmax is not None:
            self._put_scales(*quantize_scales(self._absmax, self.in_features, self.out_features))
            self._absmax = None

    def _put_scales(self, scales: np.ndarray, nested: np.ndarray) -> None:
        if self.scales is not None and self.nested is not None:
            self.scales[:], self.nested[:] = scales, nested

    @staticmethod
    def _tiles(columns: slice) -> slice:
        return slice(columns.start // TILE, -(-columns.stop // TILE))

    def _put(self, columns: slice, weight: paddle.Tensor, scales: paddle.Tensor | None = None) -> None:
        tiles = self._tiles(columns)
        self.weight[tiles] = weight.numpy()
        if scales is not None and self.scales is not None:
            self.scales[tiles] = scales.numpy()


def take_lines(kind: str, array: np.ndarray, rows: slice, per_line: int) -> np.ndarray:
    """The tiles' lines that hold some inputs, up to the padding of a weight of these alone, whose values are zero.

    Args:
        kind: the format.
        array: tiles or scales of a whole weight, ``[tiles, lines, ...]``.
        rows: the inputs; they begin at a line.
        per_line: inputs of a line.
    """
    count = -(-padded_inputs(kind, rows.stop - rows.start) // per_line)
    own = array[:, rows.start // per_line : -(-rows.stop // per_line)]
    missing = (len(array), count - own.shape[1], *array.shape[2:])
    return np.concatenate([own, np.full(missing, _ZERO.get(kind, 0), array.dtype)], axis=1) if missing[1] else own


def aligned_empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array that begins at a page, so that no line of a tile crosses two of the cache; large ones in huge pages,
    where the system has them: a product that streams gigabytes of weights spends less on looking pages up.
    """
    kind = dtypes.STORAGE[dtype]
    size = int(np.prod(shape)) * kind.itemsize
    if size < _HUGE_PAGE:
        room = np.empty(size + 64, np.uint8)
        start = -room.ctypes.data % 64
        return room[start : start + size].view(kind).reshape(shape)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, kind).reshape(shape)


def as_tensor(array: np.ndarray, dtype: str) -> paddle.Tensor:
    """An array (bfloat16 as uint16) as a tensor on the current device: on the CPU over the array's own memory, which
    lives as long as the tensor.
    """
    if paddle.get_device() != "cpu":
        tensor = paddle.to_tensor(array.view(np.int16) if dtype == "bfloat16" else array)
        return tensor.view("bfloat16") if dtype == "bfloat16" else tensor
    if array.size == 0:
        return paddle.zeros(array.shape, paddle_dtype(dtype))
    # DLPack has no uint16 that Paddle would take for bfloat16
    tensor = _shared(array.view(np.int16) if dtype == "bfloat16" else array)
    return tensor.view("bfloat16") if dtype == "bfloat16" else tensor


def dequantized(
    kind: str,
    weight: paddle.Tensor,
    scales: paddle.Tensor | None,
    in_features: int,
    out_features: int,
    nested: paddle.Tensor | None = None,
) -> np.ndarray:
    """The float32 weights ``[in_features, out_features]`` that packed tiles stand for.

    Args:
        kind: the format.
        weight, scales, nested: its arrays; of nf4 without ``nested``, ``scales`` are what the codes of scales stand
            for, float32, so that some tiles of a weight can be read.
        in_features, out_features: sizes without padding.
    """
    if kind == NF4 and scales is not None:
        if nested is not None:
            return dequantize_nf4(weight, scales, nested, in_features, out_features).numpy()
        return unpack_nf4(weight, scales, in_features, out_features).numpy()
    if scales is None:
        w = dequantize_w16(weight, in_features, out_features)
    elif kind == INT4:
        w = dequantize_w4(weight, scales, in_features, out_features)
    else:
        w = dequantize_w8(weight, scales, in_features, out_features)
    return w.numpy()


def fill_float(packed: PackedWeight, chunk: Callable[[slice], np.ndarray], rows: slice | None = None) -> None:
    """Quantize a weight of which ``chunk`` gives the float32 ``[in, columns]``.

    Args:
        packed: the weight.
        chunk: of these columns.
        rows: see :meth:`PackedWeight.quantize`.
    """
    for columns in packed.chunks():
        packed.quantize(columns, chunk(columns), rows)
    packed.finish()


def _tensor(array: np.ndarray) -> paddle.Tensor:
    """On the CPU, whatever the device."""
    return _shared(np.require(array, requirements=["C", "W"]))


def _shared(array: np.ndarray) -> paddle.Tensor:
    """A CPU tensor over the memory of ``array``."""
    return paddle.from_dlpack(array)  # type: ignore[arg-type]  # NumPy's stubs lack arguments that Paddle's ask for
