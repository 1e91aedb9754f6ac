"""What is deployed: models, each with the number of its replicas and what one of them has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...engine.config import EngineConfig
from ...errors import ConfigurationError
from ...options import ModelOptions
from ..settings import ServerSettings

APPLICATION = "paddlemix"
"""Its name in Ray Serve."""

MAX_REPLICAS = 1024


@dataclass(frozen=True)
class ModelDeployment:
    """A model and its replicas.

    Attributes:
        settings: of the server that each replica is.
        options: which model, and how it is loaded.
        engine: sizes of each replica's engine.
        replicas: how many.
        gpus: of a replica; ``None``: as many as share the model where the cluster has GPUs and the model is not told to
            run on a CPU, else none.
        cpus: processors of a replica; ``None``: with GPUs 1, otherwise the replicas share those of the cluster.
    """

    settings: ServerSettings
    options: ModelOptions
    engine: EngineConfig
    replicas: int = 1
    gpus: int | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ConfigurationError(f"replicas: got {self.replicas}, expected 1 to {MAX_REPLICAS}")
        for name in ("gpus", "cpus"):
            value = getattr(self, name)
            if value is not None and value < (0 if name == "gpus" else 1):
                raise ConfigurationError(f"replica_{name}: got {value}, expected a count of whole ones")

    @property
    def name(self) -> str:
        """Of the deployment: that of the model without characters that a file's name cannot have."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.settings.model_name)

    def needs(self, cluster: Cluster, all_replicas: int) -> tuple[int, int]:
        """Processors and GPUs of a replica, where ``all_replicas`` of all models share the cluster."""
        wants_gpus = cluster.gpus > 0 and not (self.options.device or "").startswith("cpu")
        gpus = self.gpus if self.gpus is not None else self.options.tensor_parallel * wants_gpus
        if self.cpus is not None:
            return self.cpus, gpus
        share = max(1, min(cluster.cpus // all_replicas, cluster.largest_machine))
        return (1 if gpus else share), gpus


@dataclass(frozen=True)
class Plan:
    """What is deployed.

    Attributes:
        models: with their replicas.
        gateways: processes that take requests and forward them.
        cluster: address of a Ray cluster to join; ``None``: one of this program's own, on this machine alone.
        certfile, keyfile: for https, on each machine that takes requests.
    """

    models: tuple[ModelDeployment, ...]
    gateways: int = 1
    cluster: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def settings(self) -> ServerSettings:
        """Of the server."""
        return self.models[0].settings


@dataclass(frozen=True)
class Cluster:
    """What there is to share.

    Attributes:
        cpus, gpus: of all machines.
        largest_machine: processors of the machine that has most.
    """

    cpus: int
    gpus: int
    largest_machine: int


def shares(models: Sequence[ModelDeployment], cluster: Cluster, may_grow: bool = False) -> list[tuple[int, int]]:
    """Processors and GPUs of a replica of each model.

    Args:
        models: all that share the cluster.
        cluster: what there is.
        may_grow: machines may come for what does not fit yet.

    Raises:
        ConfigurationError: there is too little, and nothing will come.
    """
    count = sum(model.replicas for model in models)
    needs = [model.needs(cluster, count) for model in models]
    for what, position, there in (("processors", 0, cluster.cpus), ("GPUs", 1, cluster.gpus)):
        needed = sum(model.replicas * need[position] for model, need in zip(models, needs))
        if needed > there and not may_grow:
            raise ConfigurationError(
                f"replicas: {count} need {needed} {what}, and there are {there}; start fewer, or give each less"
            )
    return needs


def check_models(models: Sequence[ModelDeployment]) -> None:
    """Refuse models that cannot be told apart.

    Raises:
        ConfigurationError: none, or two of one name.
    """
    if not models:
        raise ConfigurationError("models: got none, expected at least one")
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"models: two are called {twice!r}; give one a served_model_name")
