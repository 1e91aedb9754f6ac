"""Qwen-VL (version 1): the model, its tokenizer, its processor and what reads its answers.

The public names are imported on first use, so the tokenizer, the processor and the reading of boxes never load Paddle.
"""

from __future__ import annotations

import importlib

_HOME = {
    "Box": "grounding",
    "IncrementalDecoder": "streaming",
    "KVCache": "kv_cache",
    "QWenLMHeadModel": "modeling",
    "QWenModel": "modeling",
    "QWenVLConfig": "configuration",
    "QWenVLTokenizer": "tokenization",
    "QWenVLVisionConfig": "configuration",
    "QwenVLImageProcessor": "processing",
    "QwenVLProcessor": "processing",
    "Resampler": "resampler",
    "StopStringMatcher": "streaming",
    "VisionTransformer": "vision",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
