"""The processes of a tensor parallel model: what they add up and what they put together in a pass.

Attention and feed-forward layers are sums over heads and hidden units. Each process computes the summands of its share
from inputs that all have, and :meth:`TensorParallelGroup.reduce` adds them up. In the backward pass it is the other way
round: the gradient of a sum goes to every process as it is, and that of the inputs is added up by
:meth:`TensorParallelGroup.copy` (the functions g and f of Shoeybi et al., 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer


class TensorParallelGroup:
    """A process among those that share a model. Every method is called by all of them at the same point.

    Alone, each method gives back what it was given.

    Args:
        rank: of this process among them.
        size: how many they are.
        group: Paddle's; None: all processes that there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    @classmethod
    def of_all(cls) -> TensorParallelGroup:
        """Of all processes that have joined."""
        return cls(dist.get_rank(), dist.get_world_size())

    def reduce(self, x: paddle.Tensor) -> paddle.Tensor:
        """The sum of the processes' summands; without gradients, in place of ``x``."""
        if self.size == 1:
            return x
        if paddle.is_grad_enabled() and not x.stop_gradient:
            return _Reduce.apply(x, self)
        return self.add_up(x)

    def copy(self, x: paddle.Tensor) -> paddle.Tensor:
        """``x``, which every process has; its gradient is the sum of the processes' gradients."""
        if self.size == 1 or not paddle.is_grad_enabled() or x.stop_gradient:
            return x
        return _Copy.apply(x, self)

    def gather(self, x: paddle.Tensor, widths: Sequence[int]) -> paddle.Tensor:
        """The last axes of all processes' tensors, one behind the other.

        Args:
            x: ``[..., widths[rank]]``.
            widths: of the processes, by rank.
        """
        return x if self.size == 1 else _Gather.apply(x, self, widths)

    def add_up(self, x: paddle.Tensor, operation: Any = dist.ReduceOp.SUM) -> paddle.Tensor:
        """The sum (or maximum) over the processes, in place, without gradients."""
        if self.size > 1:
            if x.place.is_gpu_place():
                dist.stream.all_reduce(x, operation, self.group, use_calc_stream=True)
            else:
                dist.all_reduce(x, operation, self.group)
        return x

    def collect(self, x: paddle.Tensor, shapes: Sequence[Sequence[int]]) -> list[paddle.Tensor]:
        """In the first process, the tensors of all, by rank; in the others their own.

        Args:
            x: of this process.
            shapes: of all processes' tensors, by rank.
        """
        first = self.first_rank()
        ranks = range(self.size) if self.group is None else self.group.ranks
        if self.rank > 0:
            dist.send(x.contiguous(), first, self.group)
            return [x]
        others = [paddle.empty(list(shape), x.dtype) for shape in shapes[1:]]
        for rank, other in zip(list(ranks)[1:], others):
            dist.recv(other, rank, self.group)
        return [x, *others]

    def first_rank(self) -> int:
        """The rank of the group's first process among all processes."""
        first: int = 0 if self.group is None else self.group.ranks[0]
        return first


SINGLE = TensorParallelGroup()
"""A process that has the whole model."""


class _Reduce(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: TensorParallelGroup) -> paddle.Tensor:
        return group.add_up(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> paddle.Tensor:
        return gradients[0]


class _Copy(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: TensorParallelGroup) -> paddle.Tensor:
        ctx.group = group
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> paddle.Tensor:
        group: TensorParallelGroup = ctx.group
        return group.add_up(gradients[0].clone())


class _Gather(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, group: TensorParallelGroup, widths: Sequence[int]) -> paddle.Tensor:
        ctx.own = sum(widths[: group.rank]), sum(widths[: group.rank + 1])
        missing = max(widths) - widths[group.rank]  # all have to bring as much
        padded = paddle.concat([x, paddle.zeros([*x.shape[:-1], missing], x.dtype)], axis=-1) if missing else x
        gathered: list[paddle.Tensor] = []
        dist.all_gather(gathered, padded.contiguous(), group.group)
        return paddle.concat([part[..., :width] for part, width in zip(gathered, widths)], axis=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> paddle.Tensor:
        start, stop = ctx.own
        return gradients[0][..., start:stop].contiguous()
