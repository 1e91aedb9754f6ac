"""Families of models by the name of their architecture in ``config.json``; their modules are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.layouts import WeightTable
from ..utils.dependencies import import_own
from ..utils.files import CONFIG_FILE, read_json_object


@dataclass(frozen=True)
class ModelFamily:
    """What the rest of the package asks of a family of models, each from a module of the family's own package.

    Attributes:
        name: for messages.
        package: the family's package.
        config, model, processor: names of its classes, in the modules ``configuration``, ``modeling`` and
            ``processing``.
    """

    name: str
    package: str
    config: str
    model: str
    processor: str

    @property
    def config_class(self) -> Any:
        """Class of the configuration."""
        return self._find("configuration", self.config)

    @property
    def model_class(self) -> Any:
        """Class of the model with its language-model head."""
        return self._find("modeling", self.model)

    @property
    def processor_class(self) -> Any:
        """Class of the processor of messages and images."""
        return self._find("processing", self.processor)

    @property
    def weights(self) -> WeightTable:
        """Names, shapes and orientation of the weights."""
        return self._find("weights", "WEIGHTS")

    @property
    def adapter_targets(self) -> tuple[str, ...]:
        """Layers that an adapter changes by default."""
        return self._find("weights", "ADAPTER_TARGETS")

    @property
    def freeze_presets(self) -> Mapping[str, tuple[str, ...]]:
        """Preset of the option ``freeze`` -> globs of the parameters that it freezes."""
        return self._find("weights", "FREEZE_PRESETS")

    def read_config(self, directory: Path) -> dict[str, Any] | None:
        """The checked fields of a directory's ``config.json``; None without a file.

        Raises:
            CheckpointError: the file cannot be read as a JSON object.
            ConfigurationError: it is of another family, or has fields that cannot work.
        """
        return self._find("config_schema", "read_config")(directory)

    def check_vocabulary(self, path: Path, config: Mapping[str, Any] | None) -> None:
        """Compare a vocabulary file with a checked configuration.

        Raises:
            CheckpointError: it is damaged, or of another size than the model's.
        """
        self._find("vocabulary", "check_vocabulary")(path, config)

    def _find(self, module: str, name: str) -> Any:
        return getattr(import_own(f"{self.package}.{module}", self.name), name)


DEFAULT_FAMILY = ModelFamily(
    name="Qwen-VL",
    package="paddlemix.models.qwen_vl",
    config="QWenVLConfig",
    model="QWenLMHeadModel",
    processor="QwenVLProcessor",
)
"""The family of models whose files do not say."""

FAMILIES: Mapping[str, ModelFamily] = {"QWenLMHeadModel": DEFAULT_FAMILY}
"""Architecture -> family."""


def family_of(path: Path) -> ModelFamily:
    """The family of a model's directory, or of the directory that a file of weights lies in.

    A directory whose ``config.json`` names no known architecture gets the default one, which refuses others by name
    when it reads their configuration.

    Raises:
        CheckpointError: ``config.json`` cannot be read as a JSON object.
    """
    config = read_json_object((path if path.is_dir() else path.parent) / CONFIG_FILE) or {}
    names = config.get("architectures")
    known = [FAMILIES[name] for name in FAMILIES if isinstance(names, list) and name in names]
    return known[0] if known else DEFAULT_FAMILY
