"""How the processes of a training are arranged: replicas of the model, and processes that share one.

Fleet makes the groups; replicas are the outer dimension, so that the processes of one are neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle.distributed as dist
from paddle.distributed import fleet

from ..errors import ConfigurationError
from ..utils.paddle_internals import groups_made_in_turn
from .group import SINGLE, TensorParallelGroup

STAGE1 = "stage1"


@dataclass(frozen=True)
class Degrees:
    """How the processes of a training are arranged.

    Attributes:
        sharding: replicas of the model that share the optimizer state.
        data: replicas of those.
        tensor: processes that share one replica of the model.
    """

    sharding: int = 1
    data: int = 1
    tensor: int = 1

    @classmethod
    def of(cls, processes: int, sharding: str | None, sharding_degree: int | None, tensor: int = 1) -> Degrees:
        """The arrangement that the options ask for.

        Args:
            processes: number of all processes.
            sharding: ``stage1``, or None for none.
            sharding_degree: None: all replicas share.
            tensor: processes of a replica.

        Raises:
            ConfigurationError: the number of processes is no multiple of the degrees.
        """
        if processes % tensor:
            raise ConfigurationError(
                f"tensor_parallel_degree: got {tensor} for {processes} process(es), expected a divisor"
            )
        replicas = processes // tensor
        degree = 1 if sharding is None else replicas if sharding_degree is None else sharding_degree
        if replicas % degree:
            raise ConfigurationError(
                f"sharding_parallel_degree: got {degree} for {replicas} replica(s) of the model, expected a divisor"
            )
        return cls(degree, replicas // degree, tensor)

    @property
    def replicas(self) -> int:
        """Replicas of the model, each of which has its own batches."""
        return self.sharding * self.data

    @property
    def replica(self) -> int:
        """The number of this process's replica."""
        return int(dist.get_rank()) // self.tensor

    def model_group(self) -> TensorParallelGroup:
        """The processes that share this process's replica, once Fleet was told."""
        if self.tensor == 1:
            return SINGLE
        groups = fleet.get_hybrid_communicate_group()
        return TensorParallelGroup(groups.get_model_parallel_rank(), self.tensor, groups.get_model_parallel_group())

    def init_fleet(self) -> None:
        """Let Fleet make the groups, once in the life of a process; data parallelism alone needs none."""
        if self.sharding == 1 and self.tensor == 1:
            return
        strategy = fleet.DistributedStrategy()
        degrees: Any = {
            "dp_degree": self.data,
            "sharding_degree": self.sharding,
            "mp_degree": self.tensor,
            "mp_configs": {"sync_param": False},  # by names, which say nothing here; they are in step anyway
        }
        strategy.hybrid_configs = degrees
        with groups_made_in_turn():
            fleet.init(is_collective=True, strategy=strategy, log_level="ERROR")
