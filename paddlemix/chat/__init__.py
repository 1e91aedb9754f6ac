"""Conversations: the message schema, its rendering to token ids, and sessions with a model.

The public names are imported on first use, so that reading or rendering messages never loads Paddle.
"""

from __future__ import annotations

from ..lazy import lazy_exports

_HOME = {
    "ChatSession": "session",
    "RenderedPrompt": "template",
    "TrainingExample": "template",
    "conversation_to_messages": "messages",
    "decode_tokens": "template",
    "get_stop_words_ids": "template",
    "history_to_messages": "messages",
    "make_context": "template",
    "messages_from_json": "messages",
    "messages_to_history": "messages",
    "messages_to_json": "messages",
    "normalize_messages": "messages",
    "render_chatml": "template",
    "render_conversation": "template",
    "render_raw": "template",
    "render_training": "template",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
