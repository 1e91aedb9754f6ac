"""The models of this package, each in a folder of its own; imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["qwen_vl"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; models: {', '.join(__all__)}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
