"""Qwen-VL for PaddlePaddle.

The public names below are imported on first use, so ``import paddlemix`` itself loads neither Paddle nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddlemix.appflow import Appflow
    from paddlemix.chat.session import ChatSession
    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
    from paddlemix.models.qwen_vl.processing import QwenVLImageProcessor, QwenVLProcessor
    from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

__version__ = "0.1.0"

_HOME = {
    "Appflow": "paddlemix.appflow",
    "ChatSession": "paddlemix.chat.session",
    "QWenLMHeadModel": "paddlemix.models.qwen_vl.modeling",
    "QWenVLConfig": "paddlemix.models.qwen_vl.configuration",
    "QWenVLTokenizer": "paddlemix.models.qwen_vl.tokenization",
    "QwenVLImageProcessor": "paddlemix.models.qwen_vl.processing",
    "QwenVLProcessor": "paddlemix.models.qwen_vl.processing",
}

__all__ = [
    "Appflow",
    "ChatSession",
    "QWenLMHeadModel",
    "QWenVLConfig",
    "QWenVLTokenizer",
    "QwenVLImageProcessor",
    "QwenVLProcessor",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'paddlemix' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
