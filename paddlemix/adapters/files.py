"""Adapters between models and directories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import paddle.nn as nn

from ..checkpoint.readers.tensor import StoredTensor
from ..checkpoint.target import Guard, check_target, require_free
from ..errors import AdapterError
from ..models.qwen_vl.tensor_parallel import join
from . import peft
from .config import LoRAConfig
from .fingerprint import model_fingerprint
from .injection import attached, inject_exactly, parameter_shards, require_attached, saved_parameters
from .stored import Adapter, read_adapter, read_values, require_fit, whole_layers, write_adapter


def load_adapter(model: nn.Layer, directory: str | os.PathLike[str], *, trainable: bool = False) -> list[str]:
    """Put the adapter of a directory into ``model``, or its values into the same adapter where the model has it.

    Args:
        trainable: whether the adapter is to be trained further; otherwise everything is frozen.

    Returns:
        The names of the adapted layers.

    Raises:
        AdapterError: another base model, another geometry, or a kind of adapter that is not supported.
        CheckpointError: damaged or unsafe files.
    """
    return attach_adapter(model, read_adapter(directory, model.weight_table), trainable=trainable)


def attach_adapter(model: nn.Layer, adapter: Adapter, *, trainable: bool = False) -> list[str]:
    """As :func:`load_adapter`, with an adapter that was found already."""
    present = attached(model)
    base = present.base if present is not None else model_fingerprint(model)
    require_fit(adapter, model.weight_table.expected_shapes(model.config), base)
    layers, saved = list(adapter.tensors.pairs), whole_layers(adapter)
    if present is None:
        inject_exactly(model, adapter.config, layers, saved)
    elif (set(layers), set(saved)) != (set(present.layers), set(present.saved)) or not _same(
        present.config, adapter.config
    ):
        raise AdapterError(f"{adapter.path}: is not of the adapter in the model; load it into the base model")
    parameters = dict(model.named_parameters())
    for layer, pair in adapter.tensors.pairs.items():
        for part, tensor in zip("AB", pair):
            _set(adapter, model, parameters, f"{layer}.lora_{part}", tensor)
    for name, tensor in adapter.tensors.whole.items():
        _set(adapter, model, parameters, name, tensor)
    if not trainable:
        for parameter in parameters.values():
            parameter.stop_gradient = True
    return layers


def _same(one: LoRAConfig, other: LoRAConfig) -> bool:
    return (one.r, one.scaling) == (other.r, other.scaling)


def _set(
    adapter: Adapter, model: nn.Layer, parameters: Mapping[str, paddle.Tensor], name: str, tensor: StoredTensor
) -> None:
    values = read_values(adapter, name, tensor, "float32")
    shards = parameter_shards(model, name)
    if shards is not None:
        values = shards[model.group.rank].take(values)
    parameter = parameters[name]
    parameter.set_value(paddle.to_tensor(np.ascontiguousarray(values)).astype(parameter.dtype))


def save_adapter(
    model: nn.Layer, directory: str | os.PathLike[str], *, base_name: str | None = None, overwrite: bool = False
) -> None:
    """Write the adapter in ``model`` into ``directory``, as ``peft`` does, with a fingerprint of the base model.

    Args:
        base_name: name or directory of the base model, for whoever loads the adapter.
        overwrite: replace an adapter that an earlier run wrote there.

    Raises:
        AdapterError: the model has none.
        TargetError: the directory holds something else.
        CheckpointError: it cannot be written; the directory is then as it was.
    """
    require_attached(model)
    _write(model, check_target(directory, "directory"), base_name, partial(require_free, overwrite=overwrite))


def put_adapter(model: nn.Layer, directory: Path, *, base_name: str | None = None) -> None:
    """As :func:`save_adapter`, into a directory that is the caller's own, whatever it holds.

    All processes of a split model call this; the first one writes.
    """
    _write(model, directory, base_name, None)


def _write(model: nn.Layer, directory: Path, base_name: str | None, guard: Guard | None) -> None:
    state = require_attached(model)
    parameters = dict(model.named_parameters())
    pairs = {
        layer: (
            _stored(model, f"{layer}.lora_A", parameters[f"{layer}.lora_A"]),
            _stored(model, f"{layer}.lora_B", parameters[f"{layer}.lora_B"]),
        )
        for layer in state.layers
    }
    table = model.weight_table
    whole = {name: _stored(model, name, values) for name, values in saved_parameters(model).items()}
    if not _writes(model):
        return
    tensors = peft.AdapterTensors(table, pairs, whole)
    names = [name.removesuffix(".weight") for name in table.expected_shapes(model.config)]
    targets = peft.peft_targets(state.config.targets or (), state.layers, filter(table.is_linear_layer, names))
    settings = peft.config_to_peft(state.config, targets, state.saved, base_name)
    write_adapter(directory, settings, tensors, state.base, guard=guard)


def _writes(model: nn.Layer) -> bool:
    """Whether this is the first of the processes that share the model."""
    return getattr(model, "partition", None) is None or model.group.rank == 0


def _stored(model: nn.Layer, name: str, values: paddle.Tensor) -> StoredTensor:
    """A parameter to be written, whole: its parts are put together now."""
    tag = str(values.dtype).rpartition(".")[2]
    shards = parameter_shards(model, name)
    if shards is None:
        return StoredTensor(values.name, tuple(values.shape), tag, "", values.numpy)
    joined = join(model.group, values, shards)
    return StoredTensor(values.name, joined.shape, tag, "", lambda: joined)
