"""Qwen-VL for PaddlePaddle.

The public names below are imported on first use, so ``import paddlemix`` itself loads neither Paddle nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .utils.dependencies import ignore_import_warnings
from .utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .appflow import Appflow as Appflow
    from .chat.session import ChatSession as ChatSession
    from .models.qwen_vl.configuration import QWenVLConfig as QWenVLConfig
    from .models.qwen_vl.modeling import QWenLMHeadModel as QWenLMHeadModel
    from .models.qwen_vl.processing import QwenVLImageProcessor as QwenVLImageProcessor
    from .models.qwen_vl.processing import QwenVLProcessor as QwenVLProcessor
    from .models.qwen_vl.tokenization import QWenVLTokenizer as QWenVLTokenizer

__version__ = "0.1.0"

# A user's own `import paddle` after this one is quiet too.
ignore_import_warnings()

_HOME = {
    "Appflow": "appflow",
    "ChatSession": "chat.session",
    "QWenLMHeadModel": "models.qwen_vl.modeling",
    "QWenVLConfig": "models.qwen_vl.configuration",
    "QWenVLTokenizer": "models.qwen_vl.tokenization",
    "QwenVLImageProcessor": "models.qwen_vl.processing",
    "QwenVLProcessor": "models.qwen_vl.processing",
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

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
