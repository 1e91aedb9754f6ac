"""Conversations: the message schema, its rendering to token ids, and sessions with a model.

The public names are imported on first use, so that reading or rendering messages never loads Paddle.
"""

from __future__ import annotations

from ..utils.lazy import lazy_exports

_HOME = {
    "ChatSession": "session",
    "RenderedPrompt": "paddlemix.models.qwen_vl.chat_template",
    "TrainingExample": "paddlemix.models.qwen_vl.chat_template",
    "conversation_to_messages": "paddlemix.models.qwen_vl.messages",
    "decode_tokens": "paddlemix.models.qwen_vl.chat_template",
    "get_stop_words_ids": "paddlemix.models.qwen_vl.chat_template",
    "history_to_messages": "paddlemix.models.qwen_vl.messages",
    "make_context": "paddlemix.models.qwen_vl.chat_template",
    "messages_from_json": "paddlemix.models.qwen_vl.messages",
    "messages_to_history": "paddlemix.models.qwen_vl.messages",
    "messages_to_json": "paddlemix.models.qwen_vl.messages",
    "normalize_messages": "paddlemix.models.qwen_vl.messages",
    "render_chatml": "paddlemix.models.qwen_vl.chat_template",
    "render_conversation": "paddlemix.models.qwen_vl.chat_template",
    "render_raw": "paddlemix.models.qwen_vl.chat_template",
    "render_training": "paddlemix.models.qwen_vl.chat_template",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
