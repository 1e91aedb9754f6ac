"""Sizes of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine.

    Attributes:
        cache_bytes: for keys and values; at least one block is made.
        preallocate: make the whole cache at once; otherwise it grows with what the requests there are may need.
        feature_cache_bytes: for encoded images that no request needs at the moment.
        block_size: positions of a block.
        max_rows: most rows of a pass; eight are what the kernels for few rows gain most from.
        chunk_size: most positions of a prompt computed at once.
        vision_layers: layers of the image encoder run at once.
        step_budget: seconds in which further parts of prompts are begun after a step's first.
    """

    cache_bytes: int = 1 << 30
    preallocate: bool = True
    feature_cache_bytes: int = 256 << 20
    block_size: int = 64
    max_rows: int = 8
    chunk_size: int = 64
    vision_layers: int = 4
    step_budget: float = 0.1

    def __post_init__(self) -> None:
        for name in ("cache_bytes", "block_size", "max_rows", "chunk_size", "vision_layers"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected at least 1, got {getattr(self, name)}")
