"""LLaVA's records, also called ShareGPT's: ``{"image", "conversations": [{"from": "human" | "gpt", "value"}]}``.

``<image>`` stands for the image, or for each of ``image``'s list. LLaVA itself moves it to the start of its turn and
trains on a record without it as if there were no image; here it stays where it is, and the numbers have to agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from .common import Conversation, Fault, conversation, foreign_fields, turns_of

IMAGE_FIELDS = ("image", "images")


def recognizes(value: Mapping[str, Any]) -> bool:
    """Whether the record has LLaVA's fields or speakers."""
    turns = value.get("conversations")
    if turns is None:
        return False
    has_own_field = any(name in value for name in IMAGE_FIELDS)
    return has_own_field or (isinstance(turns, list) and any(map(_has_own_speaker, turns)))


def _has_own_speaker(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("from") in ("human", "gpt")


def read(value: Mapping[str, Any]) -> Conversation | list[Fault]:
    """The conversation, or what is wrong with it."""
    faults = foreign_fields(value, (*IMAGE_FIELDS, "conversations"))
    turns = turns_of(value["conversations"], "conversations", "from", "value")
    return conversation(value, chain(faults, turns), image_fields=IMAGE_FIELDS)
