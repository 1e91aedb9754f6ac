"""Qwen-VL (version 1): the model, its tokenizer, its processor and what reads its answers.

The public names are imported on first use, so the tokenizer, the processor and the reading of boxes never load Paddle.
"""

from __future__ import annotations

from ...utils.lazy import lazy_exports

_HOME = {
    "Box": "grounding",
    "IncrementalDecoder": "paddlemix.engine.detokenizer",
    "KVCache": "kv_cache",
    "QWenLMHeadModel": "modeling",
    "QWenModel": "modeling",
    "QWenVLConfig": "configuration",
    "QWenVLTokenizer": "tokenization",
    "QWenVLVisionConfig": "configuration",
    "QwenVLImageProcessor": "processing",
    "QwenVLProcessor": "processing",
    "Resampler": "resampler",
    "StopStringMatcher": "paddlemix.engine.detokenizer",
    "VisionTransformer": "vision",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
