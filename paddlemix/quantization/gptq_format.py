"""Linear layers as AutoGPTQ stores them: 4-bit integers in int32 words, with a scale and a zero point for each group.

``qweight`` ``[in / 8, out]``: eight consecutive inputs per word, input j of them in bits 4j. ``qzeros``
``[groups, out / 8]``: the zero points in the same way along the outputs, each stored minus 1 in its four bits (15
stands for 0). ``scales`` float16 ``[groups, out]``. ``g_idx`` ``[in]``: the group of each input. The weight is
``scales[g] * (q - zero)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checkpoint import dtypes
from ..checkpoint.readers import Checkpoint, raise_listed
from ..utils.display import quoted
from .plan import GROUP

#: values in a word
PER_WORD = 8
SYMMETRIC_ZERO = 8
_DTYPES = {"qweight": ("int32", 2), "qzeros": ("int32", 2), "scales": ("float16", 2), "g_idx": ("int32", 1)}
_SHIFTS = np.arange(0, 32, 4, dtype=np.uint32)


@dataclass(frozen=True)
class GPTQLinear:
    """The arrays of one layer, as stored: int32, int32, float16, int32."""

    qweight: np.ndarray
    qzeros: np.ndarray
    scales: np.ndarray
    g_idx: np.ndarray

    @property
    def in_features(self) -> int:
        """Inputs of the layer."""
        return self.qweight.shape[0] * PER_WORD

    @property
    def out_features(self) -> int:
        """Outputs of the layer."""
        return self.qweight.shape[1]

    def problems(self, name: str) -> list[str]:
        """What is wrong with the arrays of the layer ``name``, beside each other."""
        in_features, out_features = self.in_features, self.out_features
        groups = len(self.scales)
        expected = {
            "qzeros": (groups, out_features // PER_WORD),
            "scales": (groups, out_features),
            "g_idx": (in_features,),
        }
        found = [
            f"{quoted(f'{name}.{part}')} has shape {list(getattr(self, part).shape)}, expected {list(wanted)}"
            for part, wanted in expected.items()
            if getattr(self, part).shape != wanted
        ]
        if not found and not (groups and in_features and out_features):
            found.append(f"{quoted(f'{name}.qweight')} or its scales are empty")
        if not found and (self.g_idx.min() < 0 or self.g_idx.max() >= groups):
            found.append(f"{quoted(f'{name}.g_idx')} names groups outside of 0..{groups - 1}")
        if not found and dtypes.count_non_finite(self.scales, "float16"):
            found.append(f"{quoted(f'{name}.scales')} holds NaN or infinite values")
        return found

    def zeros(self, columns: slice = slice(None)) -> np.ndarray:
        """Zero points 0..15, int32 ``[groups, columns]``: each from its own four bits, as AutoGPTQ 0.7.1 computes with
        them, whatever borrowed from its neighbors when the words were made.
        """
        return ((_unpack(self.qzeros.T).T + 1) & 15)[:, columns]

    def integers(self, columns: slice = slice(None)) -> np.ndarray:
        """The stored integers 0..15, int32 ``[in, columns]``."""
        return _unpack(self.qweight[:, columns])

    def dequantized(self, columns: slice = slice(None)) -> np.ndarray:
        """The weight, float32 ``[in, columns]``, exact: a product of 11 and 5 bits fits into 24."""
        scales = self.scales[:, columns].astype(np.float32)
        return scales[self.g_idx] * (self.integers(columns) - self.zeros(columns)[self.g_idx]).astype(np.float32)

    def fits_tiles(self) -> bool:
        """Whether our int4 holds exactly this: zero points in the middle, inputs in the order of their groups, groups
        of a multiple of 128 inputs.
        """
        size = int(np.count_nonzero(self.g_idx == 0))
        whole = size == self.in_features or (size and size % GROUP == 0)
        ordered = whole and np.array_equal(self.g_idx, np.arange(self.in_features) // size)
        return bool(ordered and np.all(self.zeros() == SYMMETRIC_ZERO))

    def group_scales(self) -> np.ndarray:
        """The scales, one row for each 128 inputs: float16 ``[in / 128, out]``."""
        return self.scales[self.g_idx[::GROUP]]


def _unpack(words: np.ndarray) -> np.ndarray:
    """``[n, m]`` words to int32 ``[8 n, m]``."""
    values = (words.view(np.uint32)[:, None, :] >> _SHIFTS[:, None]) & np.uint32(15)
    return values.reshape(-1, words.shape[1]).astype(np.int32)


def _pack(values: np.ndarray) -> np.ndarray:
    """The other way round."""
    parts = values.astype(np.uint32).reshape(-1, PER_WORD, values.shape[1]) << _SHIFTS[:, None]
    return np.bitwise_or.reduce(parts, axis=1).view(np.int32)


def read_layers(checkpoint: Checkpoint) -> dict[str, GPTQLinear]:
    """Our weight's name -> the GPTQ layer that holds it, as views of the files.

    Raises:
        CheckpointError: with everything that is missing or not as it should be.
    """
    layers, problems = {}, []
    for ours, name in checkpoint.gptq_layers().items():
        parts = [f"{name}.{part}" for part in _DTYPES]
        missing = [f"{quoted(part)} is missing" for part in parts if part not in checkpoint]
        wrong = [
            f"{quoted(part)} is {checkpoint.dtype(part)} {list(checkpoint.shape(part))}, expected {rank}-d {dtype}"
            for part, (dtype, rank) in zip(parts, _DTYPES.values())
            if part in checkpoint and (checkpoint.dtype(part), len(checkpoint.shape(part))) != (dtype, rank)
        ]
        problems += missing + wrong
        if not missing and not wrong:
            layer = layers[ours] = GPTQLinear(*map(checkpoint.read, parts))
            problems += layer.problems(name)
    raise_listed(f"{checkpoint.path}: damaged", problems)
    return layers


def symmetric_layer(q: np.ndarray, scales: np.ndarray, group_size: int = GROUP) -> GPTQLinear:
    """A layer from integers -8..7, int8 ``[in, out]``, and scales float16 ``[groups, out]``; in and out are multiples
    of 8.
    """
    zeros = np.full((scales.shape[1], len(scales)), SYMMETRIC_ZERO - 1)
    g_idx = (np.arange(len(q)) // group_size).astype(np.int32)
    qzeros = np.ascontiguousarray(_pack(zeros).T)
    return GPTQLinear(_pack(q.astype(np.int32) + SYMMETRIC_ZERO), qzeros, np.ascontiguousarray(scales), g_idx)
