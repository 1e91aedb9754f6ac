"""Adapters into a model: which layers get one, which are trained whole; and out again, added to the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn as nn

from ..checkpoint.dtypes import STORAGE
from ..checkpoint.shards import Shard
from ..errors import AdapterError, NotEnoughMemoryError
from ..models.qwen_vl.layers import Linear
from ..quantization.layers import QuantizedLinear, SixteenBitEmbedding
from ..quantization.memory import available_memory
from ..quantization.tiles import dequantized
from ..utils import parameter_names as naming
from ..utils.device import free_gpu_memory
from ..utils.paddle_internals import paddle_dtype
from .config import LoRAConfig
from .fingerprint import model_fingerprint
from .lora import LoRALinear, linear_shape

#: of a weight that AdamW trains: itself, its gradient, two moments
_TRAINED_COPIES = 4


@dataclass(frozen=True)
class Attached:
    """The adapter in a model.

    layers: names of the adapted layers; saved: names of the layers that are trained whole; base: fingerprint of the
    model without the adapter.
    """

    config: LoRAConfig
    layers: tuple[str, ...]
    saved: tuple[str, ...]
    base: str


def attached(model: nn.Layer) -> Attached | None:
    """What :func:`inject` put into a model; None where it has no adapter."""
    return getattr(model, "attached_adapter", None)


def require_attached(model: nn.Layer) -> Attached:
    """As :func:`attached`.

    Raises:
        AdapterError: there is none.
    """
    found = attached(model)
    if found is None:
        raise AdapterError("model: has no adapter; put one in with inject or load_adapter")
    return found


def inject(model: nn.Layer, config: LoRAConfig, dtype: str | None = None) -> list[str]:
    """Put an adapter into ``model``: only its weights, and the layers of ``modules_to_save``, are trained from now on.

    The same for float and quantized layers. A quantized layer of ``modules_to_save`` becomes a float one.

    Args:
        dtype: of the adapter's weights; by default the model's activations'.

    Returns:
        The names of the adapted layers.

    Raises:
        AdapterError: a name that matches nothing that can be adapted, or a model that has an adapter already.
        NotEnoughMemoryError: the adapter is larger than what is available.
    """
    _refuse_attached(model)
    targets = model.adapter_targets if config.targets is None else config.targets
    config = dataclasses.replace(config, targets=targets)
    layers = select(adaptable_layers(model), targets, "lora_targets", "linear layer")
    saved = select(_trainable_layers(model), config.modules_to_save, "modules_to_save", "layer")
    _require_memory(model, config, layers, dtype or model.activation_dtype, _TRAINED_COPIES)
    return inject_exactly(model, config, layers, saved, dtype)


def inject_exactly(
    model: nn.Layer, config: LoRAConfig, layers: Iterable[str], saved: Iterable[str], dtype: str | None = None
) -> list[str]:
    """As :func:`inject`, into the layers of these names, whatever the configuration's patterns say."""
    _refuse_attached(model)
    layers, saved = tuple(layers), tuple(saved)
    _refuse_overlap(layers, saved)
    _require_memory(model, config, layers, dtype or model.activation_dtype)
    found = Attached(config, layers, saved, model_fingerprint(model))
    dtype = dtype or model.activation_dtype
    for parameter in model.parameters():
        parameter.stop_gradient = True
    tree = dict(model.named_sublayers())
    for name in saved:
        _train_whole(model, tree, name)
    linear = linear_layers(model)
    partition = getattr(model, "partition", None)
    shards = {} if partition is None else partition.shards
    for name in layers:
        adapted = LoRALinear(linear[name], config, dtype, shards.get(f"{name}.weight"))
        adapted.training = model.training
        replace(model, name, adapted)
    model.attached_adapter = found
    return list(layers)


def linear_layers(model: nn.Layer) -> dict[str, nn.Linear | QuantizedLinear]:
    """All linear layers by name, float and quantized."""
    return {name: layer for name, layer in model.named_sublayers() if isinstance(layer, (nn.Linear, QuantizedLinear))}


def adaptable_layers(model: nn.Layer) -> dict[str, nn.Linear | QuantizedLinear]:
    """The linear layers of the original by name, the same in float and quantized models.

    What is a bare parameter in the original (``visual.proj``, the resampler's packed projection) is none. The output
    projection of the resampler's attention is one; in PyTorch, where ``peft`` wraps it as well, its adapter has no
    effect before it is merged, because ``nn.MultiheadAttention`` takes the weight past the layer.
    """
    return {name: layer for name, layer in linear_layers(model).items() if model.weight_table.is_linear_layer(name)}


def select(known: Iterable[str], patterns: Iterable[str], field: str, what: str) -> list[str]:
    """The known names that one of ``patterns`` matches, in the order of the model.

    Raises:
        AdapterError: a pattern matches none.
    """
    known = list(known)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in known if naming.matches(name, pattern)]
        if not found:
            near = ", ".join(naming.similar(pattern, known))
            raise AdapterError(f"{field}: {pattern!r} matches no {what} of the model; near it: {near}")
        chosen.update(found)
    return [name for name in known if name in chosen]


def _refuse_attached(model: nn.Layer) -> None:
    if attached(model) is not None:
        raise AdapterError("model: has an adapter already; load the base model again, or merge the adapter first")


def replace(model: nn.Layer, name: str, layer: nn.Layer) -> None:
    """Put ``layer`` in the place of the one called ``name``."""
    parent, _, attribute = name.rpartition(".")
    for part in filter(None, parent.split(".")):
        model = getattr(model, part)
    setattr(model, attribute, layer)


def parameter_shards(model: nn.Layer, name: str) -> list[Shard] | None:
    """The parts of an adapter's parameter, or of a weight that is trained whole, by process; None where all have it."""
    partition = getattr(model, "partition", None)
    if partition is None:
        return None
    layer, _, part = name.rpartition(".")
    weight = f"{layer}.weight" if part in ("lora_A", "lora_B") else name
    if weight not in partition.shards:
        return None
    shards: list[Shard] = partition.of_all(weight)
    if weight == name:
        return shards
    axis = 0 if part == "lora_A" else 1
    if shards[0].axis != axis:
        return None
    rank = dict(model.named_parameters())[name].shape[1 - axis]
    whole = (shards[0].whole[0], rank) if axis == 0 else (rank, shards[0].whole[1])
    return [Shard(whole, axis, shard.slices) for shard in shards]


def saved_parameters(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """The parameters of the layers that are trained whole, by their names in the model."""
    tree = dict(model.named_sublayers())
    return {
        f"{name}.{parameter}": values
        for name in require_attached(model).saved
        for parameter, values in tree[name].named_parameters()
    }


def merge(model: nn.Layer) -> None:
    """Add the adapter of a float model to its weights and take its layers out. All parameters stay frozen or trainable
    as they are.

    Raises:
        AdapterError: no adapter, or quantized layers, which cannot hold the sum.
    """
    state = require_attached(model)
    layers: dict[str, LoRALinear] = {
        name: layer for name, layer in model.named_sublayers() if isinstance(layer, LoRALinear)
    }
    for name, layer in layers.items():
        if not isinstance(layer.base_layer, nn.Linear):
            raise AdapterError(
                f"model: {name!r} is quantized, and its adapter would be lost in the rounding; merge_adapter writes "
                "the sum as 16-bit weights"
            )
    for name in state.layers:
        _add(layers[name])
        replace(model, name, layers[name].base_layer)
    model.attached_adapter = None


@paddle.no_grad()
def _add(layer: LoRALinear) -> None:
    weight = layer.base_layer.weight
    added = paddle.matmul(layer.lora_A.astype("float32") * layer.scaling, layer.lora_B.astype("float32"))
    weight.set_value((weight.astype("float32") + added).astype(weight.dtype))


# ---------------------------------------------------------------------------------------------------- trained whole


def _trainable_layers(model: nn.Layer) -> list[str]:
    """Layers that have parameters, or would have in a float model."""
    return [
        name
        for name, layer in model.named_sublayers()
        if isinstance(layer, (QuantizedLinear, SixteenBitEmbedding)) or any(True for _ in layer.parameters())
    ]


def _refuse_overlap(layers: tuple[str, ...], saved: tuple[str, ...]) -> None:
    for outer in saved:
        for inner in (*layers, *saved):
            if inner.startswith(f"{outer}.") or (inner == outer and inner in layers):
                where = "lora_targets" if inner in layers else "modules_to_save"
                raise AdapterError(
                    f"modules_to_save: {outer!r} is trained whole, so {inner!r} cannot be in {where} as well"
                )


def _require_memory(model: nn.Layer, config: LoRAConfig, layers: Sequence[str], dtype: str, copies: int = 1) -> None:
    """Raise NotEnoughMemoryError where ``copies`` of the adapter alone are more than the memory that can be had."""
    linear = linear_layers(model)
    shapes = [linear_shape(linear[name]) for name in layers]
    features = sum(in_features + out_features for in_features, out_features in shapes)
    needed = config.r * features * STORAGE[dtype].itemsize * copies
    on_gpu = paddle.get_device().startswith("gpu")
    available = free_gpu_memory() if on_gpu else available_memory()
    if available is not None and needed > available:
        trained = " with gradients and the optimizer's state" if copies > 1 else ""
        raise NotEnoughMemoryError(
            f"lora_r: got {config.r}; the adapter's matrices{trained} need {needed / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are available; take a smaller rank or fewer layers"
        )


def _train_whole(model: nn.Layer, tree: dict[str, nn.Layer], name: str) -> None:
    layer = tree[name]
    if isinstance(layer, (QuantizedLinear, SixteenBitEmbedding)):
        if isinstance(layer, QuantizedLinear) and not model.weight_table.is_linear_layer(name):
            raise AdapterError(f"modules_to_save: {name!r} is quantized and no layer of the float model; name another")
        layer = float_layer(layer, model.activation_dtype)
        replace(model, name, layer)
    elif any(isinstance(inner, (QuantizedLinear, SixteenBitEmbedding)) for inner in layer.sublayers()):
        raise AdapterError(
            f"modules_to_save: {name!r} holds quantized layers; use a float model, or name single layers"
        )
    for parameter_name, parameter in layer.named_parameters():
        # a constant that checkpoints carry along
        parameter.stop_gradient = model.weight_table.is_constant(f"{name}.{parameter_name}")


def float_layer(layer: QuantizedLinear | SixteenBitEmbedding, dtype: str) -> nn.Layer:
    """A float layer of the same weights."""
    previous = paddle.get_default_dtype()
    paddle.set_default_dtype(paddle_dtype(dtype))
    try:
        if isinstance(layer, SixteenBitEmbedding):
            result: nn.Layer = nn.Embedding(layer.num_embeddings, layer.embedding_dim)
            result.weight.set_value(layer.weight.astype(dtype))
            return result
        result = Linear(layer.in_features, layer.out_features, bias_attr=None if layer.bias is not None else False)
    finally:
        paddle.set_default_dtype(previous)
    values = dequantized(layer.kind, layer.qweight, layer.scales, layer.in_features, layer.out_features, layer.nested)
    result.weight.set_value(paddle.to_tensor(np.ascontiguousarray(values)).astype(paddle_dtype(dtype)))
    if layer.bias is not None:
        result.bias.set_value(layer.bias)
    return result
