"""Qwen-VL (version 1): the model, its tokenizer, its processor and what reads its answers.

The public names are imported on first use, so the tokenizer, the processor and the reading of boxes never load Paddle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import lazy_exports

if TYPE_CHECKING:
    from ...engine.detokenizer import IncrementalDecoder as IncrementalDecoder
    from ...engine.detokenizer import StopStringMatcher as StopStringMatcher
    from .causal_lm import QWenModel as QWenModel
    from .configuration import QWenVLConfig as QWenVLConfig
    from .configuration import QWenVLVisionConfig as QWenVLVisionConfig
    from .grounding import Box as Box
    from .kv_cache import KVCache as KVCache
    from .modeling import QWenLMHeadModel as QWenLMHeadModel
    from .processing import QwenVLImageProcessor as QwenVLImageProcessor
    from .processing import QwenVLProcessor as QwenVLProcessor
    from .tokenization import QWenVLTokenizer as QWenVLTokenizer
    from .vision import Resampler as Resampler
    from .vision import VisionTransformer as VisionTransformer

_HOME = {
    "Box": "grounding",
    "IncrementalDecoder": "paddlemix.engine.detokenizer",
    "KVCache": "kv_cache",
    "QWenLMHeadModel": "modeling",
    "QWenModel": "causal_lm",
    "QWenVLConfig": "configuration",
    "QWenVLTokenizer": "tokenization",
    "QWenVLVisionConfig": "configuration",
    "QwenVLImageProcessor": "processing",
    "QwenVLProcessor": "processing",
    "Resampler": "vision",
    "StopStringMatcher": "paddlemix.engine.detokenizer",
    "VisionTransformer": "vision",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
