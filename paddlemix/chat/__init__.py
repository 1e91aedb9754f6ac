"""Conversations: the message schema, its rendering to token ids, and sessions with a model.

The public names are imported on first use, so that reading or rendering messages never loads Paddle.
"""

from __future__ import annotations

import importlib

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


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
