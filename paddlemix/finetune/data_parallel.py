"""Training on several processes: what they tell each other about gradients and weights.

Every trained parameter has an owner. Without sharding each process owns all of them. With it each parameter has one
owner, which alone keeps its optimizer state (stage 1) and its summed gradient (stage 2); in stage 3 it alone keeps the
parameters of the decoder's layers, too, frozen ones included, and the others get them for the time of a layer
(``sharded_layers.py``). A whole parameter at a time is owned, never a slice, so that what is stored has the
parameter's name and shape.

The gradient is always the mean over the processes, of losses that are each summed over their accumulation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import paddle
import paddle.distributed as dist
import paddle.nn as nn

from ..errors import TrainingError
from .processes import wait_for_all
from .zero3 import ShardedLayer

STAGE1, STAGE2, STAGE3 = "stage1", "stage2", "stage3"


class Exchange:
    """The exchange of one training. Every method is called by every process at the same point.

    Args:
        model: trained where ``stop_gradient`` is false.
        sharding: None, ``stage1``, ``stage2`` or ``stage3``; with one process they make no difference.
        layers: layers of ``model`` whose parameters stage 3 shares out. Every forward pass runs all of them.

    Raises:
        TrainingError: nothing is trained, or there are fewer parameters than processes to share them.
    """

    def __init__(self, model: nn.Layer, sharding: str | None = None, layers: Sequence[nn.Layer] = ()) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.sharding = sharding if self.size > 1 else None
        self.trained = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        if not self.trained:
            raise TrainingError("nothing is trained: every parameter of the model is frozen")
        with paddle.no_grad():
            for parameter in self.trained.values():
                self._broadcast(parameter, 0)
        self._owners: dict[str, int] = {}
        self._split: set[str] = set()
        self._layers: list[ShardedLayer] = []
        if self.sharding is None:
            return
        if len(self.trained) < self.size:
            raise TrainingError(
                f"sharding: {len(self.trained)} trained parameters are too few for {self.size} processes; leave it out"
            )
        self._owners = assign_owners({name: p.size for name, p in self.trained.items()}, self.size)
        if self.sharding == STAGE3:
            inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
            split = {name: p for name, p in model.named_parameters() if id(p) in inside}
            # apart from the trained ones, of which everybody is to have its part
            frozen = {name: p.size for name, p in split.items() if name not in self.trained}
            self._owners.update(assign_owners(frozen, self.size))
            self._split = set(split)
            owner_of = {id(p): self._owners[name] for name, p in split.items()}
            self._layers = [ShardedLayer(layer, owner_of, self.rank) for layer in layers]
        if self.sharding in (STAGE2, STAGE3):
            self._queue = ReductionQueue(backward_order(self.trained), self._owners, self.rank)

    @property
    def owned(self) -> dict[str, paddle.Tensor]:
        """The trained parameters whose optimizer state this process keeps."""
        return {name: p for name, p in self.trained.items() if self._owners.get(name, self.rank) == self.rank}

    def after_backward(self) -> None:
        """Call after each backward pass."""
        if self.sharding in (STAGE2, STAGE3):
            self._queue.finish()

    def means(self, values: paddle.Tensor) -> list[float]:
        """The mean over the processes of each of some float32 numbers; NaN where any of them has NaN."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return [value / self.size for value in values.tolist()]

    def gather(self, value: object) -> list:
        """The values of all processes."""
        if self.size == 1:
            return [value]
        values: list = []
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes, however long that takes."""
        if self.size > 1:
            wait_for_all()
            dist.barrier()

    @paddle.no_grad()
    def average_gradients(self) -> float:
        """After the last backward pass of a step: make the gradients the mean over the processes; returns their norm.

        With stages 2 and 3 only owners have them.
        """
        everywhere = self.sharding in (None, STAGE1)
        for parameter in (self.trained if everywhere else self.owned).values():
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
        """Multiply the gradients that the optimizer will see."""
        for parameter in self.owned.values():
            parameter.grad.scale_(factor)

    @paddle.no_grad()
    def after_step(self) -> None:
        """After the optimizer's step: give everybody the new weights and forget the gradients."""
        for name, parameter in self.trained.items():
            if self.sharding is not None and name not in self._split:
                self._broadcast(parameter, self._owners[name])
            parameter.clear_gradient(set_to_zero=False)

    def whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context in which every process has every weight, for saving and loading."""
        return _whole(self._layers)

    def _broadcast(self, parameter: paddle.Tensor, source: int) -> None:
        if self.size > 1:
            dist.broadcast(parameter, source)


class ReductionQueue:
    """Sums each gradient at its owner as soon as it is there, and drops it elsewhere.

    Which gradient comes when may differ between processes (one had an image, the other none), but what they call
    together must not: gradients wait for their turn in ``order``.
    """

    def __init__(self, order: Mapping[str, paddle.Tensor], owners: Mapping[str, int], rank: int) -> None:
        self._order = list(order.items())
        self._owners = owners
        self._rank = rank
        self._ready: set[str] = set()
        self._next = 0
        for name, parameter in self._order:
            parameter._register_backward_hook(lambda *_, name=name: self._arrived(name))

    def finish(self) -> None:
        """Reduce what is left, zeros where the backward pass did not come by."""
        self._ready.update(name for name, _ in self._order)
        self._advance()
        self._ready.clear()
        self._next = 0

    def _arrived(self, name: str) -> None:
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
    """Share parameters out so that all processes have about as many elements; the same on every process."""
    loads = [0] * processes
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = min(range(processes), key=lambda process: (loads[process], process))
        loads[owners[name]] += sizes[name]
    return owners


def backward_order(parameters: Mapping[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
    """About the order in which gradients come: the reverse, but what makes the decoder's input comes last."""

    def is_input(name: str) -> bool:
        return "wte" in name or "visual" in name

    return dict(sorted(reversed(parameters.items()), key=lambda item: is_input(item[0])))


def _gradient(parameter: paddle.Tensor) -> paddle.Tensor:
    """The gradient of a parameter, zeros where it has none."""
    if parameter.grad is None:
        parameter.grad = paddle.zeros(parameter.shape, parameter.dtype)
    return parameter.grad


@contextlib.contextmanager
def _whole(layers: Sequence[ShardedLayer]) -> Iterator[None]:
    for layer in layers:
        layer.fetch()
    try:
        yield
    finally:
        for layer in layers:
            layer.release()
