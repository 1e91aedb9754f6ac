"""The decoder for the few new positions of a decode step, without what its layers look up in every call.

A layer's forward pass finds its weights by name, chooses between kernels and plain Paddle, and checks arguments: 45 µs
for each decoder layer, more than the arithmetic of a small model, and more than a GPU takes for one of the large model.
Here weights and operators are looked up once. What is computed is the same, operator by operator, so that the numbers
are the same to the last bit; on a GPU, where the kernels allow it, gate and up projection are one operator with the
activation, which rounds once instead of three times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paddle
import paddle.nn as nn

from ...engine.protocols import RowInput
from ...ops import backend
from ...parallel.group import TensorParallelGroup
from ...quantization.layers import QuantizedLinear, bound_swiglu
from ...utils import paddle_internals
from .attention_metadata import PagedAttention, whole_rotation
from .configuration import QWenVLConfig
from .kv_cache import PagedKVCache, ntk_alphas
from .layers import Linear, row_parallel

if TYPE_CHECKING:
    from .causal_lm import QWenCausalLM


class Buffer:
    """An array of the host and a tensor of the same values, which keeps its address.

    On a CPU they share their memory; on a GPU :meth:`send` brings the one to the other.

    Attributes:
        host: to be written to.
        tensor: on the current device.
    """

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        """All zeros."""
        self.host = np.zeros(shape, dtype)
        self._sent = self.host.copy()
        self._shared = paddle.get_device() == "cpu"
        self.tensor = paddle_internals.shared(self.host) if self._shared else paddle.to_tensor(self.host)

    def send(self) -> None:
        """Let the tensor have what the host wrote."""
        if not self._shared:
            paddle_internals.overwrite(self.tensor, self.host)

    def send_changes(self) -> None:
        """As :meth:`send`, if the host wrote anything since; for tensors that nobody else writes to."""
        if not self._shared and not np.array_equal(self.host, self._sent):
            self.send()
            self._sent = self.host.copy()


class DecodeInputs:
    """New ids, and what attention needs beside the hidden states, of so many rows with so many new positions each.

    Attributes:
        ids: int64 ``[rows, count]``.
        metadata: of tensors that stay the same objects at the same addresses, whatever they hold.
        advancing: int32 tensors that grow by 1 when every row, each with one new position, goes on.

    Args:
        config: the model's.
        rows: of the pass.
        count: most new positions of a row.
        block_size: positions of a block of the cache.
    """

    def __init__(self, config: QWenVLConfig, rows: int, count: int, block_size: int) -> None:
        """Allocate the buffers."""
        width = -(-config.max_position_embeddings // block_size)
        self._block_size = block_size
        self._ids = Buffer([rows, count], "int64")
        self._cache_positions = Buffer([rows], "int32")
        self._positions = self._cache_positions if count == 1 else Buffer([rows, count], "int32")
        self._lengths = Buffer([rows], "int32")
        self._kv_lengths = Buffer([rows], "int32")
        self._block_table = Buffer([rows, width], "int32")
        self._table_index = Buffer([rows], "int32")
        self._moving = [self._ids, self._cache_positions, self._kv_lengths]
        if count > 1:
            self._moving += [self._positions, self._lengths]
        self._steps = np.arange(count, dtype=np.int32)
        factors = ntk_alphas(config)
        self._table_of_factor = {factor: index for index, factor in enumerate(factors)}
        self.ids = self._ids.tensor
        self.advancing = (self._cache_positions.tensor, self._kv_lengths.tensor)
        # of one memory, where each row has one new position
        positions = self._cache_positions.tensor.unsqueeze(1) if count == 1 else self._positions.tensor
        self.metadata = PagedAttention(
            rotation=whole_rotation(factors, config),
            positions=positions,
            cache_positions=self._cache_positions.tensor,
            kv_lengths=self._kv_lengths.tensor,
            lengths=None if count == 1 else self._lengths.tensor,
            block_table=self._block_table.tensor,
            table_index=self._table_index.tensor,
        )

    def load(self, rows: Sequence[RowInput]) -> None:
        """Take what a pass computes; entries behind the end of a row are left as they are."""
        ids, cache_positions, lengths = self._ids.host, self._cache_positions.host, self._lengths.host
        for index, row in enumerate(rows):
            count = len(row.ids)
            needed = -(-(row.start + count) // self._block_size)
            ids[index, :count] = row.ids
            cache_positions[index] = row.start
            lengths[index] = count
            self._block_table.host[index, :needed] = row.blocks[:needed]
            self._table_index.host[index] = self._table_of_factor[row.position_factor]
        np.add(cache_positions, lengths, out=self._kv_lengths.host)
        if self._positions is not self._cache_positions:
            np.add(cache_positions[:, None], self._steps, out=self._positions.host)
        self.send()

    def send(self) -> None:
        """Bring to the device what was loaded last."""
        for buffer in self._moving:
            buffer.send()
        for buffer in (self._block_table, self._table_index):
            buffer.send_changes()


Apply = Callable[[paddle.Tensor], paddle.Tensor]


class Operators(NamedTuple):
    """The functions of the library; each returns a list of tensors."""

    rms_norm: Callable[..., list[paddle.Tensor]]
    add_rms_norm: Callable[..., list[paddle.Tensor]]
    rotary_qkv_cache: Callable[..., list[paddle.Tensor]]
    attention_decode: Callable[..., list[paddle.Tensor]]
    swiglu: Callable[..., list[paddle.Tensor]]


class BoundLayer(NamedTuple):
    """A decoder layer: products, and the weights of what is no product.

    Attributes:
        qkv_bias: is added by the rotary operator; ``None`` where ``qkv`` adds it itself.
        norm_2: weight of the norm before the feed-forward layer.
        activated: both products of the feed-forward layer that read its input, and the activation.
        next_norm: weight of the norm behind the layer, which is the first one of the next layer.
    """

    qkv: Apply
    qkv_bias: paddle.Tensor | None
    attention_out: Apply
    norm_2: paddle.Tensor
    activated: Apply
    feed_forward_out: Apply
    next_norm: paddle.Tensor


class BoundDecoder:
    """The decoder and head of a model, with everything looked up. Call it where gradients are off.

    It keeps the layers and weights that the model has when it is made; :meth:`is_current` tells whether these are the
    model's still. A linear layer that is no plain one, such as one with an adapter, is called as a layer.

    Args:
        model: in evaluation mode; :func:`bind` tells whether it can be bound.
        operators: of its device and dtype.
    """

    def __init__(self, model: QWenCausalLM, operators: Operators) -> None:
        """Look everything up."""
        decoder = model.transformer
        blocks = list(decoder.h)
        norms = [*(block.ln_1 for block in blocks), decoder.ln_f]
        device, dtype = backend.device_of(decoder.ln_f.weight), decoder.ln_f.weight.dtype

        def apply(layer: nn.Layer) -> Apply:
            return bound_linear(layer, device, dtype)

        def apply_row_parallel(layer: nn.Layer, group: TensorParallelGroup) -> Apply:
            return apply(layer) if group.size == 1 else lambda x: row_parallel(layer, x, group)

        self._mode = backend.mode()
        self._operators = operators
        self._heads = model.local_heads
        self._epsilon = decoder.ln_f.epsilon
        self.embed = decoder.vocabulary.bound_embedding(_bound_embedding(decoder.wte))
        self._first_norm = norms[0].weight
        self._layers = [
            BoundLayer(
                *_without_bias(block.attn.c_attn, device, dtype),
                apply_row_parallel(block.attn.c_proj, block.attn.group),
                block.ln_2.weight,
                _activated(block.mlp.w2, block.mlp.w1, apply, operators.swiglu, device, dtype),
                apply_row_parallel(block.mlp.c_proj, block.mlp.group),
                following.weight,
            )
            for block, following in zip(blocks, norms[1:])
        ]
        self.head = decoder.vocabulary.bound_head(apply(model.lm_head))
        self._seen = list(_seen(model))

    def is_current(self) -> bool:
        """Whether layers, weights and the choice of kernels are those that were looked up."""
        return self._mode == backend.mode() and all(entries[name] is value for entries, name, value in self._seen)

    def logits(self, inputs: DecodeInputs, cache: PagedKVCache) -> paddle.Tensor:
        """Float32 ``[rows, vocab]`` of one new position for each row: work for the device alone.

        Raises:
            OperatorError: see :meth:`hidden`.
        """
        logits = self.head(self.hidden(self.embed(inputs.ids), inputs.metadata, cache).squeeze(1))
        return logits if logits.dtype == paddle.float32 else logits.astype("float32")

    def hidden(self, x: paddle.Tensor, metadata: PagedAttention, cache: PagedKVCache) -> paddle.Tensor:
        """``[rows, count, hidden]`` to the same shape, after the final norm.

        Raises:
            OperatorError: the metadata do not fit the cache.
        """
        try:
            return self._run(x, metadata, cache)
        except OSError as error:
            raise backend.refused(error) from None

    def _run(self, x: paddle.Tensor, metadata: PagedAttention, cache: PagedKVCache) -> paddle.Tensor:
        rms_norm, add_rms_norm, rotary_qkv_cache, attention_decode, _ = self._operators
        rotation, table, table_index = metadata.rotation, metadata.block_table, metadata.table_index
        cos, sin, logn = rotation.cos, rotation.sin, rotation.logn
        positions, cache_positions, lengths = metadata.positions, metadata.cache_positions, metadata.lengths
        kv_lengths, heads, epsilon = metadata.kv_lengths, self._heads, self._epsilon
        residual = x
        normalized = rms_norm(x, self._first_norm, epsilon)[0]
        for layer, keys, values in zip(self._layers, cache.keys, cache.values):
            qkv, qkv_bias, attention_out, norm_2, activated, feed_forward_out, next_norm = layer
            query = rotary_qkv_cache(
                qkv(normalized), qkv_bias, cos, sin, positions, keys, values, cache_positions, lengths, table, logn,
                table_index, heads,
            )[0]  # fmt: skip
            attended = attention_decode(query, keys, values, kv_lengths, cache_positions, None, table, None)[0]
            normalized, residual, _ = add_rms_norm(attention_out(attended), residual, norm_2, epsilon)
            normalized, residual, _ = add_rms_norm(
                feed_forward_out(activated(normalized)), residual, next_norm, epsilon
            )
        return normalized


def bind(model: QWenCausalLM) -> BoundDecoder | None:
    """The bound form of a model; ``None`` where only its layers compute what is wanted.

    That is where plain Paddle runs, where the library has no short way to its operators, where something is to be
    called before or after a layer's forward pass, and where GPUs share a model: what processes tell each other is not
    captured in graphs.
    """
    weight = model.transformer.ln_f.weight
    device, dtype = backend.device_of(weight), weight.dtype
    if model.group.size > 1 and device != "cpu":
        return None
    found = [
        backend.bound("rms_norm", device, dtype),
        backend.bound("rms_norm", device, dtype, "add_rms_norm"),
        backend.bound("rotary_qkv", device, dtype, "rotary_qkv_cache"),
        backend.bound("attention_decode", device, dtype),
        backend.bound("swiglu", device, dtype),
    ]
    operators = [operator for operator in found if operator is not None]
    if len(operators) < len(found) or any(paddle_internals.has_hooks(layer) for layer in _called_layers(model)):
        return None
    return BoundDecoder(model, Operators(*operators))


def bound_linear(layer: nn.Layer, device: str, dtype: paddle.dtype) -> Apply:
    """A linear layer as a function of ``x``, with its weight looked up."""
    if type(layer) is Linear:
        product, bias = _product(layer.weight), layer.bias
        return product if bias is None else lambda x: product(x) + bias
    return layer.bound(device, dtype) if type(layer) is QuantizedLinear else layer


def _without_bias(layer: nn.Layer, device: str, dtype: paddle.dtype) -> tuple[Apply, paddle.Tensor | None]:
    """As ``layers.without_bias``, of a layer that is looked up."""
    if type(layer) is Linear:
        return _product(layer.weight), layer.bias
    return bound_linear(layer, device, dtype), None


def _activated(
    gate: nn.Layer,
    up: nn.Layer,
    apply: Callable[[nn.Layer], Apply],
    swiglu: Callable[..., list[paddle.Tensor]],
    device: str,
    dtype: paddle.dtype,
) -> Apply:
    if type(gate) is QuantizedLinear and type(up) is QuantizedLinear:
        function = bound_swiglu(gate, up, device, dtype)
        if function is not None:
            return function
    gated, raised = apply(gate), apply(up)
    return lambda x: swiglu(gated(x), raised(x))[0]


def _product(weight: paddle.Tensor) -> Apply:
    if backend.device_of(weight) == "cuda":
        own = backend.bound("linear_w16", "cuda", weight.dtype, "linear")
        if own is not None:
            return lambda x: own(x, weight, None)[0]
    if paddle.is_compiled_with_cuda():
        matmul = paddle_internals.matmul
        return lambda x: matmul(x, weight, False, False)
    linear = paddle_internals.linear
    return lambda x: linear(x, weight, None)


def _bound_embedding(layer: nn.Layer) -> Apply:
    if type(layer) is not nn.Embedding:
        return layer
    embedding, weight = paddle_internals.embedding, layer.weight
    return lambda ids: embedding(ids, weight, -1, False)


def _called_layers(model: QWenCausalLM) -> Iterator[nn.Layer]:
    """The layers whose forward pass is left out."""
    decoder = model.transformer
    yield from (decoder.wte, decoder.ln_f, model.lm_head)
    for block in decoder.h:
        yield from (block, block.ln_1, block.attn, block.attn.c_attn, block.attn.c_proj)
        yield from (block.ln_2, block.mlp, block.mlp.w1, block.mlp.w2, block.mlp.c_proj)


def _seen(model: QWenCausalLM) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Where every bound layer and weight is kept, under which name, and what is there now."""
    layers: list[nn.Layer] = [model, model.transformer, model.transformer.h, *_called_layers(model)]
    for layer in layers:
        for entries in paddle_internals.entries(layer):
            yield from ((entries, name, value) for name, value in entries.items())
