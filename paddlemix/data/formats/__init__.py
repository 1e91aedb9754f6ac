"""The formats of records, detected from the fields of each record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ...models.qwen_vl.messages import message_images
from ..boxes import BoxReader, convert_text
from . import llama_factory, llava, native, swift
from .common import Conversation, Fault
from .placeholders import foreign_placeholders


class Format(NamedTuple):
    """The record format of a project.

    Attributes:
        recognizes: whether a record, a dict, has this format.
        read: record -> conversation, or its faults.
        finish: applied after the boxes in the texts are converted.
    """

    recognizes: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Conversation | list[Fault]]
    finish: Callable[[Conversation, Mapping[str, Any], BoxReader], Conversation | list[Fault]] | None = None


#: in the order of detection; a record that none of them recognizes has a native format
FOREIGN_FORMATS = {
    "ms-swift": Format(swift.recognizes, swift.read, swift.with_objects),
    "LLaMA-Factory": Format(llama_factory.recognizes, llama_factory.read),
    "LLaVA": Format(llava.recognizes, llava.read),
}
_NATIVE = Format(lambda value: True, native.read)


def read_conversation(value: Any, boxes: BoxReader) -> Conversation | list[Fault]:
    """Read a record of any format.

    Args:
        value: the record, as JSON.
        boxes: converts its boxes to thousandths.

    Returns:
        The conversation, or at least one fault.
    """
    form = _form_of(value)
    read = form.read(value)
    if isinstance(read, list):
        return read
    read, faults = _converted(read, boxes)
    if faults:
        return faults
    if form.finish is not None:
        finished = form.finish(read, value, boxes)
        if isinstance(finished, list):
            return finished
        read = finished
    return list(_left_placeholders(read)) or read


def _form_of(value: Any) -> Format:
    if isinstance(value, Mapping):
        for form in FOREIGN_FORMATS.values():
            if form.recognizes(value):
                return form
    return _NATIVE


def _converted(read: Conversation, boxes: BoxReader) -> tuple[Conversation, list[Fault]]:
    """The conversation with the boxes in its texts converted."""
    images = message_images(read.messages)
    image = images[0] if len(images) == 1 else None
    faults: list[Fault] = []
    clamped = 0
    messages = []
    for message, field in zip(read.messages, read.fields):
        content = []
        for part in message["content"]:
            if part["type"] == "text":
                text, count, found = convert_text(part["text"], boxes, image, lists=read.foreign)
                part = {"type": "text", "text": text}
                clamped += count
                faults += [(field, *fault) for fault in found]
            content.append(part)
        messages.append({**message, "content": content})
    return replace(read, messages=messages, clamped=clamped), faults


def _left_placeholders(read: Conversation) -> Iterator[Fault]:
    for message, field in zip(read.messages, read.fields):
        for part in message["content"]:
            if part["type"] == "text":
                for placeholder, owner in dict.fromkeys(foreign_placeholders(part["text"])):
                    yield field, f"{placeholder!r}, a placeholder of {owner}", _instead(read)


def _instead(read: Conversation) -> str:
    if read.foreign:
        return "a placeholder for each image and object that the record lists, and no other"
    own = "<img>path</img>" if read.labeled else "a part of type 'image'"
    return f"{own} for an image and <box>(x1,y1),(x2,y2)</box> for a box, or a record in a form that has placeholders"
