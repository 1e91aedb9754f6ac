"""Layers whose parameters are kept by one process each (sharding stage 3).

Such a layer fetches its parameters for the forward pass and lets them go; the backward pass fetches them again and
computes the forward pass a second time, as recompute does, so no activation inside the layer is kept either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn as nn
from paddle.autograd import PyLayer

from .randomness import paddle_state, set_paddle_state


class ShardedLayer:
    """Takes the place of ``layer.forward``. Its tensors are positional arguments; it returns tensors.

    Args:
        layer: its parameters, frozen ones included, are let go at once where another process owns them.
        owner_of: ``id`` of a parameter -> the process that keeps it.
        rank: this process.
    """

    def __init__(self, layer: nn.Layer, owner_of: Mapping[int, int], rank: int) -> None:
        self._parameters = [(parameter, owner_of[id(parameter)]) for parameter in layer.parameters()]
        self._rank = rank
        self._has_trained = any(not parameter.stop_gradient for parameter, _ in self._parameters)
        self.compute = layer.forward
        layer.forward = self._forward
        self.release()

    def fetch(self) -> None:
        """Make all parameters whole, with the values of their owners."""
        with paddle.no_grad():
            for parameter, owner in self._parameters:
                if owner != self._rank:
                    paddle.empty(parameter.shape, parameter.dtype)._share_buffer_to(parameter)
                dist.broadcast(parameter, owner)

    def release(self) -> None:
        """Free the parameters of other owners."""
        for parameter, owner in self._parameters:
            if owner != self._rank:
                parameter._clear_data()

    def _forward(self, *arguments: Any) -> Any:
        if not paddle.is_grad_enabled():
            return _run(self, arguments)
        arguments = list(arguments)
        if self._has_trained and all(a.stop_gradient for a in arguments if isinstance(a, paddle.Tensor)):
            # without an input that needs a gradient the backward pass would not come by
            arguments[0] = arguments[0].detach()
            arguments[0].stop_gradient = False
        return _Sharded.apply(self, *arguments)


def _run(layer: ShardedLayer, arguments: Any) -> Any:
    layer.fetch()
    try:
        return layer.compute(*arguments)
    finally:
        layer.release()


class _Sharded(PyLayer):
    @staticmethod
    def forward(ctx: Any, layer: ShardedLayer, *arguments: Any) -> Any:
        ctx.layer, ctx.arguments = layer, arguments
        ctx.random = paddle_state()
        return _run(layer, arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> Any:
        inputs = [_detached(a) if isinstance(a, paddle.Tensor) else a for a in ctx.arguments]
        now = paddle_state()
        ctx.layer.fetch()
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
