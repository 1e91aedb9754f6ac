"""The float weights that a quantized checkpoint stands for, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..checkpoint import dtypes, layouts
from ..checkpoint.readers import Checkpoint, raise_listed
from ..quantization.bnb_format import BitsAndBytesLinear, read_bnb_layers
from ..quantization.gptq_format import GPTQLinear, read_layers
from ..quantization.plan import INT4, INT8, NF4, SIXTEEN_BIT, TILE, tile_arrays

#: elements of a chunk
CHUNK = 8 << 20


class DequantizedWeights:
    """Reads a checkpoint of GPTQ layers or of our own tiles; of float weights it has nothing to do.

    Attributes:
        names: the parameters of the float model that are not in the files under their own name.
    """

    def __init__(self, checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """``shapes``: of the float model, by name.

        Raises:
            CheckpointError: the files do not hold all of it, or have biases that it has no place for.
        """
        self.checkpoint, self.shapes = checkpoint, shapes
        self.stored: dict[str, GPTQLinear | BitsAndBytesLinear] = {
            **read_layers(checkpoint),
            **read_bnb_layers(checkpoint),
        }
        present = checkpoint.our_names()
        self.names = frozenset(name for name in shapes if name not in present)
        problems = [f"{name!r} is missing" for name in self.names if not self._holds(name)]
        problems += [f"{name!r} has no place in a float model" for name in present if not self._fits(name, present)]
        problems += [problem for name in self.names if self._holds(name) for problem in self._misshapen(name)]
        problems += [
            f"{name!r} is {checkpoint.dtype(theirs)} {list(checkpoint.shape(theirs))}, expected floating-point "
            f"{list(self._stored_shape(name))}"
            for name, theirs in present.items()
            if name in shapes
            and (
                checkpoint.dtype(theirs) not in dtypes.FLOATING or checkpoint.shape(theirs) != self._stored_shape(name)
            )
        ]
        raise_listed(f"{checkpoint.path}: cannot be merged with", problems)

    def _holds(self, name: str) -> bool:
        return name in self.stored or all(f"{place}.qweight" in self.checkpoint for place in self._layers(name))

    def _layers(self, name: str) -> tuple[str, ...]:
        """The quantized layers that hold a float parameter."""
        return self.checkpoint.table.quantized_layers(name)

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        turned = self.checkpoint.table.is_transposed(name, self.checkpoint.layout, layouts.PADDLE)
        return self.shapes[name][::-1] if turned else self.shapes[name]

    def _misshapen(self, name: str) -> list[str]:
        """What of a quantized weight or bias has not the shapes that the model asks for."""
        shape, places = self.shapes[name], self._layers(name)
        if name in self.stored:
            came = self.stored[name].in_features, self.stored[name].out_features
            return [] if came == shape else [f"{name!r} has {came[0]} inputs and {came[1]} outputs, expected {shape}"]
        problems = []
        for place in places:
            width = shape[-1] // len(places)
            if len(shape) == 1:
                wanted = {}
                bias = f"{place}.bias"
                if bias not in self.checkpoint or self.checkpoint.shape(bias) != (width,):
                    problems.append(f"{bias!r} is missing or misshapen, expected {[width]}")
            else:
                kind = self._kind(place)
                wanted = {f"{place}.{part}": array for part, array in tile_arrays(kind, shape[0], width).items()}
            for part, (size, dtype) in wanted.items():
                stored = (self.checkpoint.shape(part), self.checkpoint.dtype(part)) if part in self.checkpoint else None
                if stored != (size, dtype):
                    problems.append(f"{part!r} is not the {dtype} {list(size)} that the model asks for")
        return problems

    def _fits(self, name: str, present: Mapping[str, str]) -> bool:
        """Layers of GPTQ have biases where the float model has none: of zeros, as published."""
        return name in self.shapes or (name.endswith(".bias") and not self.checkpoint.read(present[name]).any())

    def chunks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Outputs and their float32 weights ``[in, outputs]`` (biases: ``[outputs]``), until all have come."""
        if name in self.stored:
            in_features, out_features = self.shapes[name]
            for outputs in _runs(in_features, out_features):
                yield outputs, self.stored[name].dequantized(outputs)
            return
        at = 0
        places = self._layers(name)
        for place in places:
            width = self.shapes[name][-1] // len(places)
            if len(self.shapes[name]) == 1:
                bias = f"{place}.bias"
                yield slice(at, at + width), dtypes.to_float32(self.checkpoint.read(bias), self.checkpoint.dtype(bias))
            else:
                for outputs, values in self._tiles(place, self.shapes[name][0], width):
                    yield slice(at + outputs.start, at + outputs.stop), values
            at += width

    def _tiles(self, place: str, in_features: int, out_features: int) -> Iterator[tuple[slice, np.ndarray]]:
        from ..quantization.tiles import (  # with Paddle, which float models do without
            as_tensor,
            dequantized,
            read_scales,
        )

        def read(name: str, tiles: slice) -> Any:
            return as_tensor(np.array(self.checkpoint.read(name)[tiles]), self.checkpoint.dtype(name))

        weight, scales = f"{place}.qweight", f"{place}.scales"
        kind = self._kind(place)
        if kind == NF4:
            absmax = read_scales(read(scales, slice(None)), read(f"{place}.nested", slice(None)), in_features)
        for outputs in _runs(in_features, out_features):
            part = slice(outputs.start // TILE, -(-outputs.stop // TILE))
            if kind == NF4:
                factors: Any = absmax[part]
            else:
                factors = read(scales, part) if scales in self.checkpoint else None
            yield outputs, dequantized(kind, read(weight, part), factors, in_features, outputs.stop - outputs.start)

    def _kind(self, place: str) -> str:
        dtype = self.checkpoint.dtype(f"{place}.qweight")
        if dtype in SIXTEEN_BIT:
            return dtype
        scales = f"{place}.scales"
        stored = self.checkpoint.dtype(scales) if scales in self.checkpoint else None
        return {"float16": INT4, "uint8": NF4}.get(stored or "", INT8)


def _runs(in_features: int, out_features: int) -> Iterator[slice]:
    """All outputs in runs of whole tiles, each of at most about ``CHUNK`` weights."""
    width = max(1, CHUNK // in_features // TILE) * TILE
    for start in range(0, out_features, width):
        yield slice(start, min(start + width, out_features))
