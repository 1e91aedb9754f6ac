"""Calibration data: conversations from a JSON file, as what a model is called with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chat.messages import Message, conversation_to_messages, normalize_messages
from ..chat.template import render_training
from ..errors import ConfigurationError, PromptError
from ..media import ImagePolicy, load_image

if TYPE_CHECKING:
    import paddle

    from ..models.qwen_vl.processing import QwenVLProcessor


def read_conversations(path: str | os.PathLike[str]) -> list[tuple[list[Message], bool]]:
    """The conversations in a JSON file, and for each whether its text holds the labels of its pictures already.

    The file is a list. An entry is a list of messages, ``{"messages": [...]}``, or a fine-tuning record of the original
    ``{"conversations": [{"from", "value"}]}``, in which pictures are ``<img>path</img>`` with their labels.

    Raises:
        ConfigurationError: a file that cannot be read, or is no such list.
        PromptError: a malformed conversation, with its index.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path}: got {type(entries).__name__}, expected a list of conversations, not empty")
    conversations = []
    for index, entry in enumerate(entries):
        try:
            conversations.append(_conversation(entry))
        except PromptError as error:
            raise PromptError(f"{path}: entry {index}: {error}") from error
    return conversations


def _conversation(entry: Any) -> tuple[list[Message], bool]:
    if isinstance(entry, Mapping) and isinstance(entry.get("conversations"), list):
        return conversation_to_messages(entry["conversations"]), True
    messages = entry.get("messages") if isinstance(entry, Mapping) else entry
    if not isinstance(messages, list):
        raise PromptError("expected a list of messages, or a dict with 'messages' or 'conversations'")
    return normalize_messages(messages), False


def model_inputs(
    conversations: Sequence[tuple[list[Message], bool]],
    processor: QwenVLProcessor,
    *,
    max_length: int,
    policy: ImagePolicy | None = None,
) -> Iterator[dict[str, paddle.Tensor]]:
    """Each conversation of at most ``max_length`` ids as the arguments of a model; longer ones are left out.

    ``policy``: which pictures may be read, by default files and public addresses. Raises ImageError.
    """
    import paddle

    policy = policy or ImagePolicy.scripts()
    for messages, labelled in conversations:
        example = render_training(processor.tokenizer, messages, picture_labels=not labelled)
        if len(example.input_ids) > max_length:
            continue
        inputs = {"input_ids": paddle.to_tensor(np.asarray([example.input_ids], np.int64))}
        if example.images:
            pictures = [load_image(source, policy) for source in example.images]
            inputs["images"] = paddle.to_tensor(processor.image_processor(pictures))
        yield inputs
