"""ZeRO stage 3: layers whose parameters are each kept by one process.

Such a layer gathers its parameters for the forward pass and releases them; the backward pass gathers them again and
repeats the forward pass, so activation checkpointing comes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn as nn
from paddle.autograd import PyLayer

from ..utils.paddle_internals import allocate, release
from .randomness import paddle_state, set_paddle_state


class Zero3Layer:
    """Replaces ``layer.forward``, whose tensors are positional arguments and whose results are tensors.

    Args:
        layer: parameters of other owners, frozen ones included, are released at once.
        owner_of: ``id`` of a parameter -> its owner's rank.
        rank: of this process.
    """

    def __init__(self, layer: nn.Layer, owner_of: Mapping[int, int], rank: int) -> None:
        self._parameters = [(parameter, owner_of[id(parameter)]) for parameter in layer.parameters()]
        self._rank = rank
        self._has_trainable = any(not parameter.stop_gradient for parameter, _ in self._parameters)
        self.compute = layer.forward
        layer.forward = self._forward  # type: ignore[method-assign]  # on this one layer, as hooks cannot
        self.release()

    def gather(self) -> None:
        """Give every parameter its owner's values."""
        with paddle.no_grad():
            for parameter, owner in self._parameters:
                if owner != self._rank:
                    allocate(parameter)
                dist.broadcast(parameter, owner)

    def release(self) -> None:
        """Free the memory of parameters of other owners."""
        for parameter, owner in self._parameters:
            if owner != self._rank:
                release(parameter)

    def _forward(self, *arguments: Any) -> Any:
        if not paddle.is_grad_enabled():
            return _run(self, arguments)
        inputs = list(arguments)
        if self._has_trainable and all(a.stop_gradient for a in inputs if isinstance(a, paddle.Tensor)):
            # without an input that needs a gradient the backward pass would not reach this layer
            inputs[0] = inputs[0].detach()
            inputs[0].stop_gradient = False
        return _Zero3Function.apply(self, *inputs)


def _run(layer: Zero3Layer, arguments: Any) -> Any:
    layer.gather()
    try:
        return layer.compute(*arguments)
    finally:
        layer.release()


class _Zero3Function(PyLayer):
    @staticmethod
    def forward(ctx: Any, layer: Zero3Layer, *arguments: Any) -> Any:
        ctx.layer, ctx.arguments = layer, arguments
        ctx.random = paddle_state()
        return _run(layer, arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> Any:
        inputs = [_detached(a) if isinstance(a, paddle.Tensor) else a for a in ctx.arguments]
        now = paddle_state()
        ctx.layer.gather()
        set_paddle_state(ctx.random)
        with paddle.enable_grad():
            outputs = ctx.layer.compute(*inputs)
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        pairs = [(o, g) for o, g in zip(outputs, gradients) if not o.stop_gradient]
        paddle.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        set_paddle_state(now)
        ctx.layer.release()
        return tuple(i.grad for i in inputs if isinstance(i, paddle.Tensor))


def _detached(tensor: paddle.Tensor) -> paddle.Tensor:
    copy = tensor.detach()
    copy.stop_gradient = tensor.stop_gradient
    return copy
