"""Data-parallel gradient synchronization and ZeRO.

Every trainable parameter has an owner. Without sharding each process owns all of them. With ZeRO each parameter has one
owner, which alone keeps its optimizer state (stage 1) and its reduced gradient (stage 2); in stage 3 the parameters of
the decoder's layers, frozen ones included, are with their owners alone, and the other processes gather them for the
time of a layer (``zero3.py``). Whole parameters are owned, never slices, so that stored tensors have the parameter's
name and shape.

The gradient is the mean over the processes of losses that are each summed over their micro-batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn as nn

from ..errors import TrainingError
from ..utils.paddle_internals import on_gradient
from .processes import wait_for_everyone
from .zero3 import Zero3Layer

STAGE1, STAGE2, STAGE3 = "stage1", "stage2", "stage3"


class DataParallel:
    """The collective operations of one training. Every method is called by every process at the same point.

    Args:
        model: its trainable parameters are those whose ``stop_gradient`` is false.
        sharding: None, ``stage1``, ``stage2`` or ``stage3``; without effect in a single process.
        layers: layers of ``model`` that stage 3 shards. Every forward pass runs all of them.

    Attributes:
        rank: of this process.
        size: number of processes.
        sharding: the ZeRO stage in effect, or None.
        trainable: the trainable parameters by name.

    Raises:
        TrainingError: nothing is trainable, or there are fewer trainable parameters than processes to shard them.
    """

    def __init__(self, model: nn.Layer, sharding: str | None = None, layers: Sequence[nn.Layer] = ()) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.sharding = sharding if self.size > 1 else None
        self.trainable = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        if not self.trainable:
            raise TrainingError("nothing is trained: every parameter of the model is frozen")
        with paddle.no_grad():
            for parameter in self.trainable.values():
                self._broadcast(parameter, 0)
        self._owners: dict[str, int] = {}
        self._zero3_names: set[str] = set()
        self._zero3_layers: list[Zero3Layer] = []
        if self.sharding is None:
            return
        if len(self.trainable) < self.size:
            raise TrainingError(
                f"sharding: {len(self.trainable)} trained parameters are too few for {self.size} processes; leave it "
                "out"
            )
        self._owners = assign_owners({name: p.size for name, p in self.trainable.items()}, self.size)
        if self.sharding == STAGE3:
            inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
            sharded = {name: p for name, p in model.named_parameters() if id(p) in inside}
            # apart from the trainable ones, of which every process is to have its share
            frozen = {name: p.size for name, p in sharded.items() if name not in self.trainable}
            self._owners.update(assign_owners(frozen, self.size))
            self._zero3_names = set(sharded)
            owner_of = {id(p): self._owners[name] for name, p in sharded.items()}
            self._zero3_layers = [Zero3Layer(layer, owner_of, self.rank) for layer in layers]
        if self.sharding in (STAGE2, STAGE3):
            self._queue = ReductionQueue(
                backward_order(self.trainable, getattr(model, "decoder_inputs", ())), self._owners, self.rank
            )

    @property
    def owned(self) -> dict[str, paddle.Tensor]:
        """The trainable parameters whose optimizer state this process keeps."""
        return {name: p for name, p in self.trainable.items() if self._owners.get(name, self.rank) == self.rank}

    def after_backward(self) -> None:
        """Finish the reduction of gradients (stages 2 and 3); called after each backward pass."""
        if self.sharding in (STAGE2, STAGE3):
            self._queue.finish()

    def mean(self, values: paddle.Tensor) -> list[float]:
        """The elementwise mean over the processes of a float32 vector; NaN where any process has NaN."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return [float(value) / self.size for value in values.numpy()]

    def gather(self, value: object) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = []
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes, however long that takes."""
        if self.size > 1:
            wait_for_everyone()
            dist.barrier()

    @paddle.no_grad()
    def average_gradients(self) -> float:
        """Average the gradients over the processes; called after the last backward pass of a step.

        With stages 2 and 3 only owners have them.

        Returns:
            Their global L2 norm.
        """
        everywhere = self.sharding in (None, STAGE1)
        for parameter in (self.trainable if everywhere else self.owned).values():
            gradient = _gradient(parameter)
            if self.size > 1:
                if everywhere:
                    dist.all_reduce(gradient)
                gradient.scale_(1 / self.size)
        squares = [_gradient(p).astype("float32").square().sum() for p in self.owned.values()]
        total = paddle.add_n(squares)
        if self.sharding is not None:
            dist.all_reduce(total)
        return float(total) ** 0.5

    @paddle.no_grad()
    def scale_gradients(self, factor: float) -> None:
        """Multiply the gradients that the optimizer will use."""
        for parameter in self.owned.values():
            _gradient(parameter).scale_(factor)

    @paddle.no_grad()
    def after_step(self) -> None:
        """Broadcast the new weights from their owners and drop the gradients; called after the optimizer's step."""
        for name, parameter in self.trainable.items():
            if self.sharding is not None and name not in self._zero3_names:
                self._broadcast(parameter, self._owners[name])
            parameter.clear_gradient(set_to_zero=False)

    def gathered_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context in which every process has every weight, for saving and loading."""
        return _gathered(self._zero3_layers)

    def _broadcast(self, parameter: paddle.Tensor, source: int) -> None:
        if self.size > 1:
            dist.broadcast(parameter, source)


class ReductionQueue:
    """Reduces each gradient to its owner as soon as it is computed, and drops it elsewhere.

    The order in which gradients arrive may differ between processes (one had an image, the other none), that of
    collective operations must not: each gradient waits for its turn in ``order``.

    Args:
        order: the trainable parameters by name, in the order of their reduction.
        owners: rank of each parameter's owner.
        rank: of this process.
    """

    def __init__(self, order: Mapping[str, paddle.Tensor], owners: Mapping[str, int], rank: int) -> None:
        self._order = list(order.items())
        self._owners = owners
        self._rank = rank
        self._ready: set[str] = set()
        self._next = 0
        for name, parameter in self._order:
            on_gradient(parameter, lambda *_, name=name: self._on_gradient(name))

    def finish(self) -> None:
        """Reduce the remaining gradients, zeros for parameters that the backward pass did not reach."""
        self._ready.update(name for name, _ in self._order)
        self._advance()
        self._ready.clear()
        self._next = 0

    def _on_gradient(self, name: str) -> None:
        self._ready.add(name)
        self._advance()

    def _advance(self) -> None:
        while self._next < len(self._order) and self._order[self._next][0] in self._ready:
            name, parameter = self._order[self._next]
            self._next += 1
            with paddle.no_grad():
                dist.reduce(_gradient(parameter), self._owners[name])
            if self._owners[name] != self._rank:
                parameter.clear_gradient(set_to_zero=False)


def assign_owners(sizes: Mapping[str, int], processes: int) -> dict[str, int]:
    """Assign parameters to processes so that all own about as many elements; the same on every process.

    Args:
        sizes: elements of each parameter by name.
        processes: their number.

    Returns:
        The owner's rank by name.
    """
    loads = [0] * processes
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = min(range(processes), key=lambda process: (loads[process], process))
        loads[owners[name]] += sizes[name]
    return owners


def backward_order(
    parameters: Mapping[str, paddle.Tensor], decoder_inputs: tuple[str, ...] = ()
) -> dict[str, paddle.Tensor]:
    """Roughly the order of gradients in a backward pass: reversed, with the decoder's inputs at the end.

    Args:
        parameters: by name, in the order of the model.
        decoder_inputs: what names of parameters begin with that make the decoder's input.
    """
    backward = list(parameters.items())[::-1]
    return dict(sorted(backward, key=lambda item: item[0].startswith(decoder_inputs)))


def _gradient(parameter: paddle.Tensor) -> paddle.Tensor:
    """The gradient of a parameter, zeros where it has none."""
    if parameter.grad is None:
        parameter.grad = paddle.zeros(parameter.shape, parameter.dtype)
    return parameter.grad


@contextlib.contextmanager
def _gathered(layers: Sequence[Zero3Layer]) -> Iterator[None]:
    for layer in layers:
        layer.gather()
    try:
        yield
    finally:
        for layer in layers:
            layer.release()
