"""LLaMA-Factory's records: ShareGPT's conversations with ``images``, and Alpaca's instruction, input and output.

``<image>`` stands for each of the images in turn; the numbers have to agree, as there. Its third format, ``messages``
with ``images``, is read as that of ms-swift (``swift.py``), which is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from .common import Conversation, Fault, Turn, conversation, foreign_fields, pairs_of, system_turn, turns_of

_IMAGES = ("images",)


def recognizes(value: Mapping[str, Any]) -> bool:
    """Whether the record has the fields of one of the two formats."""
    if "conversations" in value:
        return "image" not in value and any(name in value for name in ("images", "system", "tools", "videos", "audios"))
    return "instruction" in value and "messages" not in value


def read(value: Mapping[str, Any]) -> Conversation | list[Fault]:
    """The conversation, or its faults."""
    if "conversations" in value:
        faults = foreign_fields(value, (*_IMAGES, "conversations", "system"))
        turns: Iterator[Turn | Fault] = chain(
            system_turn(value), turns_of(value["conversations"], "conversations", "from", "value")
        )
    else:
        faults = foreign_fields(value, (*_IMAGES, "instruction", "input", "output", "system", "history"))
        turns = pairs_of(value, "instruction", "output", _question(value))
    return conversation(value, chain(faults, turns), image_fields=_IMAGES)


def _question(value: Mapping[str, Any]) -> Any:
    """The instruction, and below it the input where there is one."""
    instruction, given = value.get("instruction"), value.get("input")
    if not isinstance(instruction, str) or given in (None, ""):
        return instruction
    return f"{instruction}\n{given}" if isinstance(given, str) else given
