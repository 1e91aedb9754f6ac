"""Conversations: the message schema, its rendering to token ids, and sessions with a model.

The public names are imported on first use, so that reading or rendering messages never loads Paddle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazy_exports

if TYPE_CHECKING:
    from ..models.qwen_vl.chat_template import RenderedPrompt as RenderedPrompt
    from ..models.qwen_vl.chat_template import TrainingExample as TrainingExample
    from ..models.qwen_vl.chat_template import render_chatml as render_chatml
    from ..models.qwen_vl.chat_template import render_raw as render_raw
    from ..models.qwen_vl.chat_template import render_training as render_training
    from ..models.qwen_vl.messages import conversation_to_messages as conversation_to_messages
    from ..models.qwen_vl.messages import history_to_messages as history_to_messages
    from ..models.qwen_vl.messages import messages_from_json as messages_from_json
    from ..models.qwen_vl.messages import messages_to_history as messages_to_history
    from ..models.qwen_vl.messages import messages_to_json as messages_to_json
    from ..models.qwen_vl.messages import normalize_messages as normalize_messages
    from ..models.qwen_vl.original_chat import decode_tokens as decode_tokens
    from ..models.qwen_vl.original_chat import get_stop_words_ids as get_stop_words_ids
    from ..models.qwen_vl.original_chat import make_context as make_context
    from ..models.qwen_vl.original_chat import render_conversation as render_conversation
    from .session import ChatSession as ChatSession

_HOME = {
    "ChatSession": "session",
    "RenderedPrompt": "paddlemix.models.qwen_vl.chat_template",
    "TrainingExample": "paddlemix.models.qwen_vl.chat_template",
    "conversation_to_messages": "paddlemix.models.qwen_vl.messages",
    "decode_tokens": "paddlemix.models.qwen_vl.original_chat",
    "get_stop_words_ids": "paddlemix.models.qwen_vl.original_chat",
    "history_to_messages": "paddlemix.models.qwen_vl.messages",
    "make_context": "paddlemix.models.qwen_vl.original_chat",
    "messages_from_json": "paddlemix.models.qwen_vl.messages",
    "messages_to_history": "paddlemix.models.qwen_vl.messages",
    "messages_to_json": "paddlemix.models.qwen_vl.messages",
    "normalize_messages": "paddlemix.models.qwen_vl.messages",
    "render_chatml": "paddlemix.models.qwen_vl.chat_template",
    "render_conversation": "paddlemix.models.qwen_vl.original_chat",
    "render_raw": "paddlemix.models.qwen_vl.chat_template",
    "render_training": "paddlemix.models.qwen_vl.chat_template",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
