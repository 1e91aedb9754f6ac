"""Linear layers as bitsandbytes stores them in nf4: 4-bit codes with a scale for each 64 weights of an output.

Beside ``weight``, uint8 ``[out * in / 2, 1]``, two codes in a byte, the first in its upper half, stand:

- ``weight.absmax``: uint8, a code of 8 bits for the scale of each 64 weights, in the order of the weights (float32, the
  scale itself, without double quantization);
- ``weight.quant_map``: float32 ``[16]``, the levels that the codes of weights stand for;
- ``weight.nested_absmax``: float32, a factor for each 256 scales; ``weight.nested_quant_map``: float32 ``[256]``, what
  the codes of scales stand for; scale = value * factor + ``nested_offset``;
- ``weight.quant_state.bitsandbytes__nf4``: JSON as uint8: ``blocksize``, ``shape`` ``[out, in]``, ``nested_blocksize``,
  ``nested_offset``, ``dtype``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checkpoint.readers import Checkpoint, raise_listed
from ..utils.display import quoted
from .plan import NF4_BLOCK

NESTED_BLOCK = 256
_MAX_STATE = 1 << 16


@dataclass(frozen=True)
class BitsAndBytesLinear:
    """The arrays of one layer.

    Attributes:
        weight: uint8 ``[out * in / 2]``.
        levels: float32 ``[16]``.
        scale_codes: uint8 ``[out * in / 64]``; None without double quantization.
        scales: float32 ``[out * in / 64]``.
        factors: float32, one per 256 scales; empty without double quantization.
        values: float32 ``[256]``; empty without double quantization.
        offset: added to all scales.
        shape: ``(out, in)``.
    """

    weight: np.ndarray
    levels: np.ndarray
    scale_codes: np.ndarray | None
    scales: np.ndarray
    factors: np.ndarray
    values: np.ndarray
    offset: float
    shape: tuple[int, int]

    @property
    def in_features(self) -> int:
        """Inputs of the layer."""
        return self.shape[1]

    @property
    def out_features(self) -> int:
        """Outputs of the layer."""
        return self.shape[0]

    def codes(self, columns: slice = slice(None)) -> np.ndarray:
        """Codes 0..15, uint8 ``[in, columns]``."""
        start, stop, _ = columns.indices(self.out_features)
        begin, end = start * self.in_features, stop * self.in_features
        pairs = self.weight[begin // 2 : -(-end // 2)]
        codes = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[begin % 2 :][: end - begin]
        return np.ascontiguousarray(codes.reshape(-1, self.in_features).T)

    def dequantized(self, columns: slice = slice(None)) -> np.ndarray:
        """The weight, float32 ``[in, columns]``, as bitsandbytes computes it."""
        start, stop, _ = columns.indices(self.out_features)
        begin, end = start * self.in_features, stop * self.in_features
        blocks = self.scales[begin // NF4_BLOCK : -(-end // NF4_BLOCK)]
        scales = blocks.repeat(NF4_BLOCK)[begin % NF4_BLOCK :][: end - begin].reshape(-1, self.in_features)
        return self.levels[self.codes(columns)] * scales.T

    def fits_tiles(self) -> bool:
        """Whether our nf4 holds exactly this: double-quantized, its blocks within the outputs."""
        return self.scale_codes is not None and self.in_features % NF4_BLOCK == 0


def read_bnb_layers(checkpoint: Checkpoint) -> dict[str, BitsAndBytesLinear]:
    """Our weight's name -> the layer of bitsandbytes that holds it; its codes stay views of the files.

    Raises:
        CheckpointError: with everything that is missing, not as it should be, or in fp4 instead of nf4.
    """
    layers: dict[str, BitsAndBytesLinear] = {}
    problems: list[str] = []
    for ours, (weight, state) in checkpoint.bnb_layers().items():
        try:
            layers[ours] = _read_layer(checkpoint, weight, state)
        except _Problem as problem:
            problems.append(str(problem))
    raise_listed(f"{checkpoint.path}: damaged", problems)
    return layers


class _Problem(Exception):
    """What is wrong with one layer."""


def _read_layer(checkpoint: Checkpoint, weight: str, state: str) -> BitsAndBytesLinear:
    if not state.endswith("__nf4"):
        raise _Problem(f"{quoted(state)}: only nf4 of bitsandbytes is supported")
    fields = _state_fields(checkpoint, state)
    shape = fields.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise _Problem(f"{quoted(state)} has shape {shape!r}, expected [out, in]")
    out_features, in_features = shape
    for name, expected in (("blocksize", NF4_BLOCK), ("nested_blocksize", NESTED_BLOCK)):
        if fields.get(name, expected) != expected:
            raise _Problem(f"{quoted(state)} has {name} {fields[name]!r}, only {expected} is supported")
    count = -(-out_features * in_features // NF4_BLOCK)
    codes = _array(checkpoint, weight, "uint8", -(-out_features * in_features // 2)).reshape(-1)
    levels = _array(checkpoint, f"{weight}.quant_map", "float32", 16)
    if not np.allclose(levels, _levels(), rtol=0, atol=1e-6):
        raise _Problem(f"{quoted(weight + '.quant_map')} has not the levels of nf4")
    absmax = f"{weight}.absmax"
    if absmax in checkpoint and checkpoint.dtype(absmax) == "float32":
        scales, empty = _array(checkpoint, absmax, "float32", count), np.empty(0, np.float32)
        return BitsAndBytesLinear(codes, levels, None, scales, empty, empty, 0.0, (out_features, in_features))
    scale_codes = _array(checkpoint, absmax, "uint8", count)
    factors = _array(checkpoint, f"{weight}.nested_absmax", "float32", -(-count // NESTED_BLOCK))
    values = _array(checkpoint, f"{weight}.nested_quant_map", "float32", 256)
    offset = fields.get("nested_offset")
    if not isinstance(offset, float):
        raise _Problem(f"{quoted(state)} has nested_offset {offset!r}, expected a number")
    scales = values[scale_codes] * factors.repeat(NESTED_BLOCK)[:count] + np.float32(offset)
    return BitsAndBytesLinear(codes, levels, scale_codes, scales, factors, values, offset, (out_features, in_features))


def _levels() -> np.ndarray:
    from ..ops.linear_nf4 import LEVELS  # with Paddle, which merging of float models does without

    return LEVELS


def _state_fields(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    shape = checkpoint.shape(name)
    if checkpoint.dtype(name) != "uint8" or len(shape) != 1 or not 0 < shape[0] <= _MAX_STATE:
        raise _Problem(f"{quoted(name)} is {checkpoint.dtype(name)} {list(shape)}, expected JSON as uint8")
    try:
        fields = json.loads(bytes(checkpoint.read(name)))
    except (ValueError, RecursionError):
        raise _Problem(f"{quoted(name)} holds no JSON") from None
    if not isinstance(fields, dict):
        raise _Problem(f"{quoted(name)} holds no JSON object")
    return fields


def _array(checkpoint: Checkpoint, name: str, dtype: str, size: int) -> np.ndarray:
    """A one-dimensional array, or one with a second axis of size 1."""
    if name not in checkpoint:
        raise _Problem(f"{quoted(name)} is missing")
    shape = checkpoint.shape(name)
    if checkpoint.dtype(name) != dtype or shape not in ((size,), (size, 1), (1, size)):
        raise _Problem(f"{quoted(name)} is {checkpoint.dtype(name)} {list(shape)}, expected {dtype} [{size}]")
    return checkpoint.read(name).reshape(-1)
