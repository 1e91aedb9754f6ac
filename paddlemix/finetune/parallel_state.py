"""The processes of a training, and what the trainer asks of them.

Paddle's engines do the work. ``Trainer._wrap_model`` wraps the model in ``paddle.DataParallel``, or model and optimizer
in Fleet's sharding (ZeRO stage 1), where each parameter has one owner, which alone keeps its optimizer state. A model
may be split among neighboring processes (tensor parallel), which then see the same batches. The gradient is the mean
over the replicas of losses that are each summed over their micro-batches.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
import paddle.nn as nn
from paddle.distributed import fleet

from ..errors import TrainingError
from ..parallel.degrees import Degrees
from ..parallel.processes import wait_for_everyone
from ..utils.paddle_internals import updated_parameters


class ParallelState:
    """The processes of one training. Every method is called by every process at the same point.

    Args:
        model: its trainable parameters are those whose ``stop_gradient`` is false.
        degrees: as Fleet was told; by default all processes are data-parallel.

    Attributes:
        rank: of this process.
        size: number of processes.
        degrees: how they are arranged.
        trainable: the trainable parameters by name.
        state_part: the part of the optimizer state that this process keeps, of ``degrees.sharding * degrees.tensor``,
            those of one process's share of the model beside each other.
        writes_state: whether this process writes the optimizer state that it keeps; one of those that have it does.
        writes_weights: whether this process takes part in writing the weights; the first one does the writing.

    Raises:
        TrainingError: nothing is trainable, or there are fewer trainable parameters than processes to share them.
    """

    def __init__(self, model: nn.Layer, degrees: Degrees | None = None) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.degrees = Degrees(data=self.size) if degrees is None else degrees
        self.trainable = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        if not self.trainable:
            raise TrainingError("nothing is trained: every parameter of the model is frozen")
        if len(self.trainable) < self.degrees.sharding:
            raise TrainingError(
                f"sharding: {len(self.trainable)} trained parameters are too few for {self.degrees.sharding} "
                "processes; leave it out"
            )
        is_hybrid = self.degrees.sharding > 1 or self.degrees.tensor > 1
        groups = fleet.get_hybrid_communicate_group() if is_hybrid else None
        self._sharding_group = groups.get_sharding_parallel_group() if groups else None
        self.group = self.degrees.model_group()
        sharding_rank = groups.get_sharding_parallel_rank() if groups else 0
        self.state_part = self.group.rank * self.degrees.sharding + sharding_rank
        self.writes_state = groups.get_data_parallel_rank() == 0 if groups else self.rank == 0
        self.writes_weights = self.rank < self.degrees.tensor

    def owned(self, optimizer: Any) -> dict[str, paddle.Tensor]:
        """The trainable parameters whose state this process's optimizer, wrapped or not, keeps."""
        names = {parameter.name for parameter in updated_parameters(optimizer)}
        return {name: p for name, p in self.trainable.items() if p.name in names}

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
    def fill_gradients(self) -> None:
        """Give parameters that no backward pass reached a gradient of zeros.

        A process that lacks one would be left out where the others' are added up.
        """
        for parameter in self.trainable.values():
            if parameter.grad is None:
                parameter.grad = paddle.zeros(parameter.shape, parameter.dtype)

    @paddle.no_grad()
    def add_partial_gradients(self) -> None:
        """Add up what the processes of a replica have each a summand of; after the last backward pass of a step."""
        for parameter in self.trainable.values():
            if parameter.grad is not None and getattr(parameter, "has_partial_gradient", False):
                self.group.add_up(parameter.grad)

    @paddle.no_grad()
    def gradient_norm(self, optimizer: Any) -> float:
        """The global L2 norm of the gradients, once they are averaged; the same number in all processes."""
        sums = [paddle.zeros([]), paddle.zeros([])]  # of what all processes of a replica have, and of what is split
        for parameter in self.owned(optimizer).values():
            if parameter.grad is not None:
                is_split = self.group.size > 1 and parameter.is_distributed
                sums[is_split] = sums[is_split] + parameter.grad.astype("float32").square().sum()
        total = paddle.stack([sums[0] / self.group.size, sums[1]])
        if self.degrees.sharding > 1:
            dist.all_reduce(total, group=self._sharding_group)
        return float(self.group.add_up(total).sum()) ** 0.5

    @paddle.no_grad()
    def scale_gradients(self, optimizer: Any, factor: float) -> None:
        """Multiply the gradients that the optimizer will use."""
        for parameter in self.owned(optimizer).values():
            if parameter.grad is not None:
                parameter.grad.scale_(factor)
