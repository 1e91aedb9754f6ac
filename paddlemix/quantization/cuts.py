"""The part of a linear weight that a layer of a split model has, in float arrays, tiles and GPTQ's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint.layouts import Rule
from ..checkpoint.shards import Alignment, Shard
from .gptq_format import PER_WORD, GPTQLinear
from .layers import PendingParameter, QuantizedLinear
from .plan import (
    GROUP,
    INT4,
    INT8,
    SIXTEEN_BIT,
    SIXTEEN_BIT_PADDING,
    TILE,
    QuantizationPlan,
    padded_inputs,
    tile_arrays,
)
from .tiles import take_lines


@dataclass(frozen=True)
class Cut:
    """Rows and columns of a weight ``[inputs, outputs]``, which is all of it where the model is not split.

    Attributes:
        inputs, outputs: of the whole weight.
        rows: of the part.
        columns: of the part, one behind the other.
        first: where the weight begins among the columns of the float weight that holds it beside others.
    """

    inputs: int
    outputs: int
    rows: slice
    columns: tuple[slice, ...]
    first: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the part is all of the weight."""
        return self.has_all_rows and self.has_all_columns

    @property
    def has_all_rows(self) -> bool:
        """Whether the part has all inputs."""
        return self.rows == slice(0, self.inputs)

    @property
    def has_all_columns(self) -> bool:
        """Whether the part has all outputs."""
        return self.columns == (slice(0, self.outputs),)

    def columns_of_float(self, own: slice) -> list[slice]:
        """Where columns of the part are in the float weight."""
        places = Shard((self.outputs,), 0, self.columns).in_whole(own)
        return [slice(self.first + place.start, self.first + place.stop) for place in places]

    def take_columns(self, values: np.ndarray) -> np.ndarray:
        """The part's outputs of an array of all outputs."""
        return Shard(values.shape, 0, self.columns).take(values)

    def take_tiles(self, kind: str, weight: np.ndarray, scales: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The part of tiles and scales of the whole weight; views of them where they are in one piece."""
        arrays = [weight] if scales is None else [weight, scales]
        if not self.has_all_columns:
            tiles = tuple(slice(part.start // TILE, -(-part.stop // TILE)) for part in self.columns)
            arrays = [Shard(array.shape, 0, tiles).take(array) for array in arrays]
        if not self.has_all_rows:
            padded = padded_inputs(kind, self.inputs)
            for index, array in enumerate(arrays):
                if array.shape[1] > 1:  # one scale per output is for all rows
                    arrays[index] = take_lines(kind, array, self.rows, padded // array.shape[1])
        return tuple(np.ascontiguousarray(array) for array in arrays)

    def take_gptq(self, stored: GPTQLinear) -> GPTQLinear:
        """The part of a GPTQ layer; groups keep their numbers."""
        if not self.has_all_rows:
            words = stored.qweight[self.rows.start // PER_WORD : self.rows.stop // PER_WORD]
            stored = replace(stored, qweight=words, g_idx=stored.g_idx[self.rows])
        if not self.has_all_columns:
            packed = tuple(slice(part.start // PER_WORD, part.stop // PER_WORD) for part in self.columns)
            stored = replace(
                stored,
                qweight=Shard(stored.qweight.shape, 1, self.columns).take(stored.qweight),
                qzeros=Shard(stored.qzeros.shape, 1, packed).take(stored.qzeros),
                scales=Shard(stored.scales.shape, 1, self.columns).take(stored.scales),
            )
        return stored

    def expected(self, parameter: PendingParameter) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of the whole weight's arrays in a checkpoint of tiles."""
        if isinstance(parameter.layer, QuantizedLinear):
            return tile_arrays(parameter.layer.kind, self.inputs, self.outputs)
        return {"weight": ((self.inputs, self.outputs), parameter.layer.kind)}


def cut_of(parameter: PendingParameter, shards: Mapping[str, Shard]) -> Cut:
    """What a layer has of its weight."""
    layer = parameter.layer
    if isinstance(layer, QuantizedLinear):
        inputs, outputs = layer.in_features, layer.out_features
    else:
        inputs, outputs = layer.num_embeddings, layer.embedding_dim
    own = parameter.columns or slice(0, outputs)
    number = own.start // outputs  # among the layers that share the weight
    shard = shards.get(parameter.weight)
    if shard is not None and shard.axis == 0:
        return Cut(shard.whole[0], outputs, shard.slices[0], (slice(0, outputs),))
    rows = slice(0, inputs)
    if shard is None:
        return Cut(inputs, outputs, rows, (slice(0, outputs),), number * outputs)
    whole = shard.whole[1] // (1 if parameter.columns is None else len(shard.slices))
    first = number * whole
    columns = tuple(slice(part.start - first, part.stop - first) for part in shard.in_whole(own))
    return Cut(inputs, whole, rows, columns, first)


def tile_alignment(plan: QuantizationPlan) -> Alignment:
    """Where weights in the formats of ``plan`` are cut: between tiles, and between the groups of 128 inputs that share
    a scale of the weight or, in the operators, of the activations, so that every number is that of the whole weight.
    """
    return _alignment(plan, dict.fromkeys(SIXTEEN_BIT, SIXTEEN_BIT_PADDING))


def finest_alignment(plan: QuantizationPlan) -> Alignment:
    """Where they can be cut if need be: without scales of inputs, between lines of tiles and words of GPTQ.

    The weights are those of the whole still; the CPU's operator rounds activations in the groups of the part.
    """
    return _alignment(plan, {INT8: PER_WORD, **dict.fromkeys(SIXTEEN_BIT, PER_WORD)})


def _alignment(plan: QuantizationPlan, inputs: Mapping[str, int]) -> Alignment:
    """The alignment with that of inputs by format, 128 of those not named."""

    def alignment(rule: Rule, axis: int) -> int:
        kind = None if rule.part is None else getattr(plan, rule.part)
        if kind is None or rule.part == "embeddings":
            return 1
        return TILE if axis == 1 else inputs.get(kind, GROUP)

    return alignment


def quantizes_all_rows(kind: str) -> bool:
    """Whether a scale depends on all inputs of an output."""
    return kind not in (INT4, *SIXTEEN_BIT)
