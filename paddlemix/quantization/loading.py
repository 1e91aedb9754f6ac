"""Filling a quantized model from a checkpoint: float weights, layers of GPTQ or bitsandbytes, or our own tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import paddle
import paddle.nn as nn

from ..checkpoint import dtypes, layouts, load_into
from ..checkpoint.layouts import WeightTable
from ..checkpoint.readers import Checkpoint, raise_listed
from ..checkpoint.shards import Shard
from ..errors import ConfigurationError
from ..utils.display import quoted
from ..utils.progress import Counter
from .bnb_format import BitsAndBytesLinear, read_bnb_layers
from .cuts import Cut, cut_of, quantizes_all_rows
from .gptq_format import PER_WORD, SYMMETRIC_ZERO, GPTQLinear, read_layers
from .layers import PendingParameter, QuantizedLinear, replace_layers
from .plan import INT4, NF4, SIXTEEN_BIT, QuantizationPlan
from .tiles import CHUNK, PackedWeight, aligned_empty, as_tensor, fill_float

_VIEWS = "FLAGS_use_stride_kernel"


def load_quantized(
    model: nn.Layer,
    checkpoint: Checkpoint,
    plan: QuantizationPlan,
    dtype: str,
    *,
    check_finite: bool = True,
    counter: Counter | None = None,
    shards: Mapping[str, Shard] | None = None,
) -> None:
    """Put quantized layers into ``model``, made in ``dtype`` under ``paddle.LazyGuard``, and fill it.

    One chunk of one float weight is held beside the model; tiles of our own checkpoints stay in the mapped files.
    ``counter`` is told how many bytes of the files have been read. ``shards``: the parts of float weights that this
    process has of a split model.

    Raises:
        CheckpointError: with all that is missing, misshapen or unexpected, before anything large is read; at the end
            with weights that hold NaN or infinity.
        ConfigurationError: Paddle was told to do without views.
    """
    if not paddle.get_flags(_VIEWS)[_VIEWS]:
        raise ConfigurationError(
            f"{_VIEWS}: is switched off, and quantized weights are views of integers; unset the environment variable"
        )
    shards = shards or {}
    waiting = replace_layers(model, plan, dtype, checkpoint.table)
    pending = [(parameter, cut_of(parameter, shards)) for parameter in waiting]
    _check_splits(pending, checkpoint)
    if checkpoint.packed:
        names = {
            f"{parameter.path}.{part}"
            for parameter in waiting
            for part in ("qweight", "scales", "nested", "bias", "weight")
        }
        load_into(
            model, checkpoint, dtype, check_finite=check_finite,
            elsewhere=names, problems=_packed_problems(pending, checkpoint), counter=counter, shards=shards,
        )  # fmt: skip
        for parameter, cut in pending:
            _map_tiles(parameter, cut, checkpoint, dtype)
        return
    source = _FloatSource(checkpoint, check_finite, counter or Counter(0, None))
    names = {name for parameter in waiting for name in (parameter.weight, parameter.bias)}
    load_into(
        model, checkpoint, dtype, check_finite=check_finite, elsewhere=names, problems=source.problems(pending),
        counter=counter, shards=shards,
    )  # fmt: skip
    for parameter, cut in pending:
        if isinstance(parameter.layer, QuantizedLinear):
            source.fill_linear(parameter, cut, dtype)
        else:
            source.fill_embedding(parameter, cut)
    raise_listed(f"{checkpoint.path}: damaged", source.damaged)


def _check_splits(pending: Sequence[tuple[PendingParameter, Cut]], checkpoint: Checkpoint) -> None:
    """Scales of nf4 are quantized over whole weights, of which parts have no meaning of their own."""
    if all(cut.is_whole for _, cut in pending):
        return
    if checkpoint.bnb_layers() or any(
        isinstance(parameter.layer, QuantizedLinear) and parameter.layer.kind == NF4 for parameter, _ in pending
    ):
        raise ConfigurationError(
            "quantization: a model that is split over processes cannot be in nf4; use int4 of the unquantized weights"
        )


# ---------------------------------------------------------------------------------------------------- our tiles


def _packed_problems(pending: Sequence[tuple[PendingParameter, Cut]], checkpoint: Checkpoint) -> list[str]:
    problems = []
    for parameter, cut in pending:
        for part, (shape, dtype) in cut.expected(parameter).items():
            name = f"{parameter.path}.{part}"
            if name not in checkpoint:
                problems.append(f"{quoted(name)} is missing")
            elif checkpoint.shape(name) != shape or checkpoint.dtype(name) != dtype:
                came = f"{checkpoint.dtype(name)} {list(checkpoint.shape(name))}"
                problems.append(f"{quoted(name)} is {came}, expected {dtype} {list(shape)}")
        bias = f"{parameter.path}.bias"
        if bias in checkpoint:
            wanted = [cut.outputs]
            if list(checkpoint.shape(bias)) != wanted:
                problems.append(f"{bias!r} has shape {list(checkpoint.shape(bias))}, expected {wanted}")
        elif needs_bias(parameter, checkpoint.table):
            problems.append(f"{bias!r} is missing")
    return problems


def needs_bias(parameter: PendingParameter, table: WeightTable) -> bool:
    """Whether the layer has a bias in the float model; GPTQ's layers have more of them."""
    found = table.find_rule(parameter.bias)
    return found is not None and not found[0].optional_bias


def _map_tiles(parameter: PendingParameter, cut: Cut, checkpoint: Checkpoint, dtype: str) -> None:
    layer, kinds = parameter.layer, {part: kind for part, (_, kind) in cut.expected(parameter).items()}
    arrays = {part: checkpoint.map_writable(f"{parameter.path}.{part}") for part in kinds}
    if not isinstance(layer, QuantizedLinear):
        layer.weight = as_tensor(arrays["weight"][cut.rows], layer.kind)
        return
    parts = arrays
    if not cut.is_whole:
        parts = dict(zip(kinds, cut.take_tiles(layer.kind, arrays["qweight"], arrays.get("scales"))))
    tensors = {part: as_tensor(array, kinds[part]) for part, array in parts.items()}
    bias = _bias(checkpoint, f"{parameter.path}.bias", dtype, cut)
    layer.fill(tensors["qweight"], tensors.get("scales"), bias, tensors.get("nested"))


def _bias(
    checkpoint: Checkpoint, name: str | None, dtype: str, cut: Cut, within: slice | None = None
) -> paddle.Tensor | None:
    """A layer's bias; ``within``: where those of its whole weight are in what the checkpoint has of this name."""
    if name is None or name not in checkpoint:
        return None
    values = cut.take_columns(checkpoint.read(name)[within or slice(None)])
    return as_tensor(np.array(dtypes.cast(values, checkpoint.dtype(name), dtype)), dtype)


# ---------------------------------------------------------------------------------------------------- float and GPTQ

_TRANSPOSED_ROWS = 256


class _FloatSource:
    """The weights of a float, GPTQ or bitsandbytes checkpoint, as the pending parameters of a model want them."""

    def __init__(self, checkpoint: Checkpoint, check_finite: bool, counter: Counter) -> None:
        self.checkpoint, self.check_finite, self.counter = checkpoint, check_finite, counter
        self.names, self.gptq = checkpoint.our_names(), read_layers(checkpoint)
        self.bnb = read_bnb_layers(checkpoint)
        self.damaged: list[str] = []

    def problems(self, pending: Sequence[tuple[PendingParameter, Cut]]) -> list[str]:
        found = []
        for parameter, cut in pending:
            shape = (cut.inputs, cut.outputs if parameter.columns is None else 3 * cut.outputs)
            if parameter.weight in self.gptq:
                stored = self.gptq[parameter.weight]
                if (stored.in_features, stored.out_features) != shape:
                    came = [stored.in_features // PER_WORD, stored.out_features]
                    found.append(
                        f"'{parameter.path}.qweight' has shape {came}, expected {[shape[0] // PER_WORD, shape[1]]}"
                    )
            elif parameter.weight in self.bnb:
                stored_shape = self.bnb[parameter.weight].shape
                if stored_shape != shape[::-1]:
                    found.append(
                        f"{parameter.weight!r} is {list(stored_shape)} in 4 bits, expected {list(shape[::-1])}"
                    )
            elif parameter.weight not in self.names:
                found.append(f"{parameter.weight!r} is missing")
            else:
                name = self.names[parameter.weight]
                wanted = shape[::-1] if self._transposed(parameter.weight) else shape
                if self.checkpoint.shape(name) != wanted:
                    came = list(self.checkpoint.shape(name))
                    found.append(f"{quoted(name)} has shape {came}, expected {list(wanted)}")
            if needs_bias(parameter, self.checkpoint.table) or parameter.bias in self.names:
                found += self._bias_problems(parameter, shape[1])
        return list(dict.fromkeys(found))

    def _bias_problems(self, parameter: PendingParameter, size: int) -> list[str]:
        name = self.names.get(parameter.bias)
        if name is None:
            return [f"{parameter.bias!r} is missing"]
        shape = self.checkpoint.shape(name)
        return [] if shape == (size,) else [f"{quoted(name)} has shape {list(shape)}, expected [{size}]"]

    def fill_linear(self, parameter: PendingParameter, cut: Cut, dtype: str) -> None:
        layer = parameter.layer
        packed = PackedWeight(layer.kind, layer.in_features, layer.out_features)
        is_scaled_by_all = not cut.has_all_rows and quantizes_all_rows(layer.kind)
        read = replace(cut, rows=slice(0, cut.inputs)) if is_scaled_by_all else cut
        own_rows = cut.rows if is_scaled_by_all else None
        if parameter.weight in self.gptq:
            stored = read.take_gptq(self.gptq[parameter.weight])
            if layer.kind == INT4:
                take_integers(packed, stored)
            else:
                fill_float(packed, stored.dequantized, own_rows)
            self.counter.add(layer.in_features * layer.out_features // 2)
        elif parameter.weight in self.bnb:
            self._fill_from_bnb(packed, self.bnb[parameter.weight], cut)
            self.counter.add(layer.in_features * layer.out_features // 2)
        else:
            fill_float(packed, partial(self._chunk, parameter, cut, read.rows), own_rows)
        scales = packed.scales if packed.nested is None else packed.nested
        if scales is not None:
            self._check(self.names.get(parameter.weight, parameter.path), scales, str(scales.dtype))
        kinds = layer.expected()
        arrays = {"qweight": packed.weight, "scales": packed.scales, "nested": packed.nested}
        tensors = {name: as_tensor(array, kinds[name][1]) for name, array in arrays.items() if array is not None}
        bias = self.names.get(parameter.bias)
        if bias is not None:
            self._check(bias, self.checkpoint.read(bias), self.checkpoint.dtype(bias))
        within = slice(cut.first, cut.first + cut.outputs)
        filled = _bias(self.checkpoint, bias, dtype, cut, within)
        layer.fill(tensors["qweight"], tensors.get("scales"), filled, tensors.get("nested"))

    def _fill_from_bnb(self, packed: PackedWeight, stored: BitsAndBytesLinear, cut: Cut) -> None:
        if packed.kind != NF4 or not stored.fits_tiles() or stored.scale_codes is None:
            first = cut.first
            fill_float(packed, lambda part: stored.dequantized(slice(first + part.start, first + part.stop)))
            return
        for columns in packed.chunks():
            packed.put_nf4(columns, stored.codes(columns))
        packed.put_nf4_scales(stored.scale_codes, stored.factors, stored.values, stored.offset)

    def fill_embedding(self, parameter: PendingParameter, cut: Cut) -> None:
        """A table that has the right dtype stays in its file, of which an answer needs a few rows."""
        name, layer = self.names[parameter.weight], parameter.layer
        stored, table = self.checkpoint.dtype(name), self.checkpoint.read(name)[cut.rows]
        mapped = stored == layer.kind
        values = self.checkpoint.map_writable(name)[cut.rows] if mapped else aligned_empty(table.shape, layer.kind)
        rows = max(1, CHUNK // layer.embedding_dim)
        for start in range(0, len(table), rows):
            part = slice(start, start + rows)
            if not mapped:
                values[part] = dtypes.cast(table[part], stored, layer.kind)
            self._check(name, values[part], layer.kind)
            self.counter.add(table[part].nbytes)
        layer.weight = as_tensor(values, layer.kind)

    def _chunk(self, parameter: PendingParameter, cut: Cut, rows: slice, columns: slice) -> np.ndarray:
        """Float32 ``[rows, columns]`` of a layer's weight: rows of the whole, columns of the layer's part."""
        name = self.names[parameter.weight]
        array, stored = self.checkpoint.read(name), self.checkpoint.dtype(name)
        is_transposed = self._transposed(parameter.weight)
        pieces = [
            _transpose(array[place, rows]) if is_transposed else array[rows, place]
            for place in cut.columns_of_float(columns)
        ]
        part = np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1))
        values = dtypes.to_float32(part, stored)
        self.counter.add(part.nbytes)
        self._check(name, values, "float32")
        if parameter.layer.kind in SIXTEEN_BIT and stored == "float32" and self.check_finite:
            self._check(name, dtypes.from_float32(values, parameter.layer.kind), parameter.layer.kind)
        return values

    def _check(self, name: str, values: np.ndarray, dtype: str) -> None:
        if self.check_finite and dtypes.count_non_finite(values, dtype):
            problem = f"{quoted(name)} holds NaN or infinite values, or such that are too large for {dtype}"
            if problem not in self.damaged:
                self.damaged.append(problem)

    def _transposed(self, weight: str) -> bool:
        return self.checkpoint.table.is_transposed(weight, self.checkpoint.layout, layouts.PADDLE)


def _transpose(rows: np.ndarray) -> np.ndarray:
    """``[columns, in]`` as contiguous ``[in, columns]``, a few rows at a time: ten times as fast as all at once, which
    walks through the memory in large steps.
    """
    result = np.empty(rows.shape[::-1], rows.dtype)
    for start in range(0, len(rows), _TRANSPOSED_ROWS):
        part = slice(start, start + _TRANSPOSED_ROWS)
        result[:, part] = rows[part].T
    return result


def take_integers(packed: PackedWeight, stored: GPTQLinear) -> None:
    """Fill a packed weight with the integers and scales of a GPTQ layer, without rounding anew."""
    scales = stored.group_scales()
    for columns in packed.chunks():
        q = (stored.integers(columns) - SYMMETRIC_ZERO).astype(np.int8)
        packed.put_int4(columns, q, scales[:, columns])
