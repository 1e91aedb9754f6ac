"""Layers that the vision encoder and the decoder share.

``Linear`` and ``without_bias`` let a following operator fuse the bias; ``RMSNorm`` and ``LayerNorm`` add the residual
before they normalize and return the sum as well, so that a block hands its output and its residual on apart;
``row_parallel`` and ``VocabularyShares`` compute with this process's part of a model that is split among processes;
``activation_checkpoint`` trades time for memory in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn as nn
import paddle.nn.functional as F
from paddle.distributed.fleet.utils import recompute

from ... import ops
from ...parallel.group import SINGLE, TensorParallelGroup
from ...utils import paddle_internals

Apply = Callable[[paddle.Tensor], paddle.Tensor]
_HAS_CUDA = paddle.is_compiled_with_cuda()


class Linear(nn.Linear):
    """``nn.Linear`` with less overhead per call.

    ``F.linear`` looks two global flags up in every call, which takes as long as the product of a small model.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        return _linear(x, self.weight, self.bias)


def without_bias(layer: nn.Layer, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    """``layer(x)`` less its bias, and the bias that is still to be added.

    A layer of another kind than ``Linear`` (quantized, or with an adapter) adds its bias itself; then ``None`` is left
    to add.
    """
    if type(layer) is Linear:
        return _linear(x, layer.weight, None), layer.bias
    return layer(x), None


def row_parallel(layer: nn.Layer, x: paddle.Tensor, group: TensorParallelGroup) -> paddle.Tensor:
    """``layer(x)``, of which each process of ``group`` has some of the inputs.

    The bias, which all have, is added to the sum.
    """
    if group.size == 1:
        return layer(x)
    if type(layer) is Linear:
        summand, bias = _linear(x, layer.weight, None), layer.bias
    else:
        summand, bias = layer.without_bias(x)
    total = group.reduce(summand)
    return total if bias is None else total + bias


class VocabularyShares:
    """Embeddings and logits of a vocabulary that is divided among processes.

    Args:
        group: the processes.
        widths: tokens of each, by rank.
    """

    def __init__(self, group: TensorParallelGroup = SINGLE, widths: tuple[int, ...] = ()) -> None:
        self.group, self.widths = group, widths
        self.first = sum(widths[: group.rank])

    def bound_embedding(self, layer: Apply) -> Apply:
        """:meth:`embed` with this layer."""
        return layer if self.group.size == 1 else lambda ids: self.embed(layer, ids)

    def bound_head(self, head: Apply) -> Apply:
        """:meth:`logits` with this head."""
        return head if self.group.size == 1 else lambda hidden: self.logits(head, hidden)

    def embed(self, layer: Apply, ids: paddle.Tensor) -> paddle.Tensor:
        """``[..., hidden]`` of ids ``[...]``, from a table of this process's tokens."""
        if self.group.size == 1:
            return layer(ids)
        own, width = ids - self.first, self.widths[self.group.rank]
        is_own = paddle.logical_and(own >= 0, own < width)
        found = layer(paddle.where(is_own, own, paddle.zeros_like(own)))
        return self.group.reduce(found * is_own.unsqueeze(-1).astype(found.dtype))

    def logits(self, head: Apply, hidden: paddle.Tensor) -> paddle.Tensor:
        """``[..., vocab]``, of a head for this process's tokens."""
        if self.group.size == 1:
            return head(hidden)
        return self.group.gather(head(self.group.copy(hidden)), self.widths)

    def softmax_gradient(self, logits: paddle.Tensor, targets: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The cross-entropy of the whole vocabulary, summed and the same in all processes, and its gradient.

        Args:
            logits: ``[n, own tokens]``, float32 or float64.
            targets: int64 ``[n]``, of the whole vocabulary.

        Returns:
            A scalar, and ``softmax - one-hot`` of this process's tokens, ``[n, own tokens]``.
        """
        largest = self.group.add_up(logits.max(axis=1), dist.ReduceOp.MAX)
        weights = (logits - largest.unsqueeze(1)).exp()
        total = self.group.add_up(weights.sum(axis=1))
        own = targets - self.first
        is_own = paddle.logical_and(own >= 0, own < logits.shape[1])
        indices = paddle.stack([paddle.arange(len(targets), dtype="int64"), paddle.where(is_own, own, own * 0)], axis=1)
        one = is_own.astype(logits.dtype)
        target_logits = self.group.add_up(paddle.gather_nd(logits, indices) * one)
        loss = (largest + total.log() - target_logits).sum()
        weights = weights / total.unsqueeze(1)
        return loss, weights.index_put_((indices[:, 0], indices[:, 1]), paddle.gather_nd(weights, indices) - one)


def _linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    if _HAS_CUDA or not paddle.in_dynamic_mode():
        return F.linear(x, weight, bias)
    return paddle_internals.linear(x, weight, bias)


class RMSNorm(nn.Layer):
    """Root-mean-square norm with the residual addition before it; see :func:`paddlemix.ops.rms_norm`."""

    def __init__(self, hidden_size: int, epsilon: float) -> None:
        """Create a weight of ones, ``[hidden_size]``."""
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor | None = None) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The norm of ``x + residual``, and that sum (``x`` itself without a residual), of the shape of ``x``."""
        return ops.rms_norm(x, self.weight, self.epsilon, residual)


class LayerNorm(nn.Layer):
    """Layer norm with the residual addition before it; see :func:`paddlemix.ops.layer_norm`."""

    def __init__(self, width: int, epsilon: float) -> None:
        """Create a weight of ones and a bias of zeros, ``[width]``."""
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([width], is_bias=True)

    def forward(self, x: paddle.Tensor, residual: paddle.Tensor | None = None) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The norm of ``x + residual``, and that sum (``x`` itself without a residual), of the shape of ``x``."""
        return ops.layer_norm(x, self.weight, self.bias, self.epsilon, residual)


def activation_checkpoint(function: Callable[..., Any], layer: nn.Layer, *inputs: Any) -> Any:
    """``function(*inputs)`` with activation checkpointing: of its activations only the inputs are kept.

    The backward pass computes the rest again; random numbers, as of dropout, are the same in both passes.

    Args:
        function: what is computed.
        layer: holds the parameters that ``function`` uses. Where neither they nor the inputs want a gradient, nothing
            is kept anyway, and ``function`` is called as it is.
        *inputs: its arguments, tensors among them.

    Returns:
        What ``function`` returns.
    """
    trained = next((parameter for parameter in layer.parameters() if not parameter.stop_gradient), None)
    tensors = [x for x in inputs if isinstance(x, paddle.Tensor)]
    if not paddle.is_grad_enabled() or (trained is None and all(x.stop_gradient for x in tensors)):
        return function(*inputs)
    # Paddle warns where no input wants a gradient, though parameters, such as an adapter's, may; hence one of these.
    # The re-entrant form would give them none.
    return recompute(lambda _, *given: function(*given), trained, *inputs, use_reentrant=False)
