"""Filling a quantized model from a checkpoint: float weights, GPTQ layers, or our own tiles as they lie in the file."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import paddle.nn as nn

from ..checkpoint import dtypes, layouts, load_into
from ..checkpoint.layouts import WeightTable
from ..checkpoint.readers import Checkpoint, raise_listed
from ..errors import ConfigurationError
from ..utils.display import quoted
from ..utils.progress import Counter
from .gptq_format import PER_WORD, SYMMETRIC_ZERO, GPTQLinear, read_layers
from .layers import PendingParameter, QuantizedLinear, replace_layers
from .plan import INT4, SIXTEEN_BIT, QuantizationPlan
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
) -> None:
    """Put quantized layers into ``model``, made in ``dtype`` under ``paddle.LazyGuard``, and fill it.

    One chunk of one float weight is held beside the model; tiles of our own checkpoints stay in the mapped files.
    ``counter`` is told how many bytes of the files have been read.
    Raises CheckpointError with all that is missing, misshapen or unexpected before anything large is read, and at the
    end with weights that hold NaN or infinity; ConfigurationError where Paddle was told to do without views.
    """
    if not paddle.get_flags(_VIEWS)[_VIEWS]:
        raise ConfigurationError(
            f"{_VIEWS}: is switched off, and quantized weights are views of integers; unset the environment variable"
        )
    pending = replace_layers(model, plan, dtype, checkpoint.table)
    if checkpoint.packed:
        names = {
            f"{parameter.path}.{part}" for parameter in pending for part in ("qweight", "scales", "bias", "weight")
        }
        load_into(
            model, checkpoint, dtype, check_finite=check_finite,
            elsewhere=names, problems=_packed_problems(pending, checkpoint), counter=counter,
        )  # fmt: skip
        for parameter in pending:
            _map_tiles(parameter, checkpoint, dtype)
        return
    source = _FloatSource(checkpoint, check_finite, counter or Counter(0, None))
    names = {name for parameter in pending for name in (parameter.weight, parameter.bias)}
    load_into(
        model, checkpoint, dtype, check_finite=check_finite, elsewhere=names, problems=source.problems(pending),
        counter=counter,
    )  # fmt: skip
    for parameter in pending:
        if isinstance(parameter.layer, QuantizedLinear):
            source.fill_linear(parameter, dtype)
        else:
            source.fill_embedding(parameter)
    raise_listed(f"{checkpoint.path}: damaged", source.damaged)


# ---------------------------------------------------------------------------------------------------- our tiles


def _packed_problems(pending: list[PendingParameter], checkpoint: Checkpoint) -> list[str]:
    problems = []
    for parameter in pending:
        for part, (shape, dtype) in _expected(parameter).items():
            name = f"{parameter.path}.{part}"
            if name not in checkpoint:
                problems.append(f"{quoted(name)} is missing")
            elif checkpoint.shape(name) != shape or checkpoint.dtype(name) != dtype:
                came = f"{checkpoint.dtype(name)} {list(checkpoint.shape(name))}"
                problems.append(f"{quoted(name)} is {came}, expected {dtype} {list(shape)}")
        bias = f"{parameter.path}.bias"
        if bias in checkpoint:
            wanted = [parameter.layer.out_features]
            if list(checkpoint.shape(bias)) != wanted:
                problems.append(f"{bias!r} has shape {list(checkpoint.shape(bias))}, expected {wanted}")
        elif needs_bias(parameter, checkpoint.table):
            problems.append(f"{bias!r} is missing")
    return problems


def needs_bias(parameter: PendingParameter, table: WeightTable) -> bool:
    """Whether the layer has a bias in the float model; GPTQ's layers have more of them."""
    found = table.find_rule(parameter.bias)
    return found is not None and not found[0].optional_bias


def _expected(parameter: PendingParameter) -> dict[str, tuple[tuple[int, ...], str]]:
    layer = parameter.layer
    if isinstance(layer, QuantizedLinear):
        return layer.expected()
    return {"weight": ((layer.num_embeddings, layer.embedding_dim), layer.kind)}


def _map_tiles(parameter: PendingParameter, checkpoint: Checkpoint, dtype: str) -> None:
    tensors = {
        part: as_tensor(checkpoint.map_writable(f"{parameter.path}.{part}"), kind)
        for part, (_, kind) in _expected(parameter).items()
    }
    if not isinstance(parameter.layer, QuantizedLinear):
        parameter.layer.weight = tensors["weight"]
        return
    bias = _bias(checkpoint, f"{parameter.path}.bias", dtype)
    parameter.layer.fill(tensors["qweight"], tensors.get("scales"), bias)


def _bias(checkpoint: Checkpoint, name: str | None, dtype: str, columns: slice | None = None) -> paddle.Tensor | None:
    if name is None or name not in checkpoint:
        return None
    values = dtypes.cast(checkpoint.read(name)[columns or slice(None)], checkpoint.dtype(name), dtype)
    return as_tensor(np.array(values), dtype)


# ---------------------------------------------------------------------------------------------------- float and GPTQ

_TRANSPOSED_ROWS = 256


class _FloatSource:
    """The weights of a float or GPTQ checkpoint, as the pending parameters of a model want them."""

    def __init__(self, checkpoint: Checkpoint, check_finite: bool, counter: Counter) -> None:
        self.checkpoint, self.check_finite, self.counter = checkpoint, check_finite, counter
        self.names, self.gptq = checkpoint.our_names(), read_layers(checkpoint)
        self.damaged: list[str] = []

    def problems(self, pending: list[PendingParameter]) -> list[str]:
        found = []
        for parameter in pending:
            layer = parameter.layer
            if not isinstance(layer, QuantizedLinear):
                shape = (layer.num_embeddings, layer.embedding_dim)
            elif parameter.columns is None:
                shape = (layer.in_features, layer.out_features)
            else:
                shape = (layer.in_features, 3 * layer.out_features)
            if parameter.weight in self.gptq:
                stored = self.gptq[parameter.weight]
                if (stored.in_features, stored.out_features) != shape:
                    came = [stored.in_features // PER_WORD, stored.out_features]
                    found.append(
                        f"'{parameter.path}.qweight' has shape {came}, expected {[shape[0] // PER_WORD, shape[1]]}"
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

    def fill_linear(self, parameter: PendingParameter, dtype: str) -> None:
        layer = parameter.layer
        packed = PackedWeight(layer.kind, layer.in_features, layer.out_features)
        if parameter.weight in self.gptq:
            stored = self.gptq[parameter.weight]
            if layer.kind == INT4:
                take_integers(packed, stored)
            else:
                fill_float(packed, stored.dequantized)
            self.counter.add(layer.in_features * layer.out_features // 2)
        else:
            fill_float(packed, partial(self._chunk, parameter))
        if packed.scales is not None:
            self._check(self.names.get(parameter.weight, parameter.path), packed.scales, str(packed.scales.dtype))
        kinds = layer.expected()
        weight = as_tensor(packed.weight, kinds["qweight"][1])
        scales = None if packed.scales is None else as_tensor(packed.scales, kinds["scales"][1])
        bias = self.names.get(parameter.bias)
        if bias is not None:
            self._check(bias, self.checkpoint.read(bias), self.checkpoint.dtype(bias))
        layer.fill(weight, scales, _bias(self.checkpoint, bias, dtype, parameter.columns))

    def fill_embedding(self, parameter: PendingParameter) -> None:
        """A table that has the right dtype stays in its file, of which an answer needs a few rows."""
        name, layer = self.names[parameter.weight], parameter.layer
        stored, table = self.checkpoint.dtype(name), self.checkpoint.read(name)
        mapped = stored == layer.kind
        values = self.checkpoint.map_writable(name) if mapped else aligned_empty(table.shape, layer.kind)
        rows = max(1, CHUNK // layer.embedding_dim)
        for start in range(0, len(table), rows):
            part = slice(start, start + rows)
            if not mapped:
                values[part] = dtypes.cast(table[part], stored, layer.kind)
            self._check(name, values[part], layer.kind)
            self.counter.add(table[part].nbytes)
        layer.weight = as_tensor(values, layer.kind)

    def _chunk(self, parameter: PendingParameter, columns: slice) -> np.ndarray:
        """Float32 ``[in, columns]`` of a parameter's weight."""
        name = self.names[parameter.weight]
        first = parameter.columns.start if parameter.columns is not None else 0
        columns = slice(first + columns.start, first + columns.stop)
        array, stored = self.checkpoint.read(name), self.checkpoint.dtype(name)
        part = (
            _transpose(array[columns])
            if self._transposed(parameter.weight)
            else np.ascontiguousarray(array[:, columns])
        )
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
