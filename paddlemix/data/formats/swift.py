"""ms-swift's records: ``query`` and ``response`` of its versions 1 and 2, ``messages`` since version 3.

``<image>`` stands for each of ``images`` in turn; without any, the images stand before the first question, as there.
In a query ``<img>path</img>`` is an image as well. ``<ref-object>`` and ``<bbox>`` stand for what ``objects`` lists:

    {"ref": ["a dog"], "bbox": [[331.5, 761.4, 853.5, 1594.8]], "bbox_type": "real", "image_id": [0]}   since version 3
    [{"caption": "a dog", "bbox": [331, 761, 853, 1594], "bbox_type": "real", "image": 0}]              before
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from ...models.qwen_vl.grounding import box_text
from ..boxes import NORM1000, PIXELS, UNIT, BoxFault, BoxReader
from .common import Conversation, Fault, conversation, foreign_fields, pairs_of, shown, system_turn, turns_of

REF, BOX = "<ref-object>", "<bbox>"

_IMAGES = ("images", "image")
_UNITS = {"real": PIXELS, "norm1": UNIT, "norm_1": UNIT, "norm1000": NORM1000, "norm_1000": NORM1000}
_NEW_FIELDS = ("ref", "bbox", "bbox_type", "image_id")
_OLD_FIELDS = ("caption", "bbox", "bbox_type", "image")


def recognizes(value: Mapping[str, Any]) -> bool:
    """Whether the record has ms-swift's fields."""
    if "messages" in value:
        return any(name in value for name in (*_IMAGES, "objects", "system", "videos", "audios", "tools"))
    return "objects" in value if "conversations" in value else "query" in value or "response" in value


def read(value: Mapping[str, Any]) -> Conversation | list[Fault]:
    """The conversation, or its faults."""
    if "messages" in value:
        known, turns = "messages", turns_of(value["messages"], "messages", "role", "content", ("loss",))
        turns = chain(_unsupervised(value["messages"]), system_turn(value), turns)
    elif "conversations" in value:
        known, turns = "conversations", turns_of(value["conversations"], "conversations", "from", "value")
        turns = chain(system_turn(value), turns)
    else:
        known, turns = "query", pairs_of(value, "query", "response", value.get("query"))
    own = ("query", "response", "system", "history") if known == "query" else (known, "system")
    faults = foreign_fields(value, (*_IMAGES, *own, "objects"))
    return conversation(value, chain(faults, turns), image_fields=_IMAGES, first=True, inline=known == "query")


def _unsupervised(messages: Any) -> Iterator[Fault]:
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, Mapping) and message.get("loss", True) not in (True, None):
            yield f"messages[{index}].loss", shown(message["loss"]), "true: every answer is a loss target"


# ---------------------------------------------------------------- objects


class _Boxes(NamedTuple):
    """The boxes of one ``<bbox>``; ``image`` is the index of their image in the record."""

    values: list[list[float]]
    unit: str
    image: int
    field: str


class _Objects(NamedTuple):
    """The phrases and boxes of the placeholders, in order."""

    refs: list[str]
    boxes: list[_Boxes]
    captions_are_optional: bool


def with_objects(read: Conversation, value: Mapping[str, Any], boxes: BoxReader) -> Conversation | list[Fault]:
    """The conversation with the phrases and boxes of ``objects`` in place of their placeholders, or its faults.

    Without objects the placeholders stay, to be reported with those of other formats.

    Args:
        read: the conversation.
        value: the record.
        boxes: converts the boxes to thousandths.
    """
    if not value.get("objects"):
        return read
    found = _objects(value["objects"], boxes.options.box_format)
    if isinstance(found, list):
        return found
    texts = [part["text"] for message in read.messages for part in message["content"] if part["type"] == "text"]
    for what, placeholder, items in (("phrases", REF, found.refs), ("boxes", BOX, found.boxes)):
        count = sum(text.count(placeholder) for text in texts)
        if count != len(items) and not (found.captions_are_optional and not count and placeholder == REF):
            return [("objects", f"{len(items)} {what} for {count} {placeholder}", "as many of them as placeholders")]
    images = [part["image"] for message in read.messages for part in message["content"] if part["type"] == "image"]
    box_texts: list[str] = []
    faults: list[Fault] = []
    clamped = 0
    for item in found.boxes:
        if not 0 <= item.image < len(images):
            faults.append((item.field, f"image {item.image}", f"one of the record's {len(images)} images, from 0"))
            continue
        text = ""
        for values in item.values:
            points = boxes.points(values, item.unit, images[item.image])
            if isinstance(points, BoxFault):
                faults.append((item.field, *points))
            else:
                text += box_text(points[0])
                clamped += points[1]
        box_texts.append(text)
    if faults:
        return faults
    refs, waiting = iter(found.refs), iter(box_texts)
    messages = [
        {**message, "content": [_filled(part, refs, waiting) for part in message["content"]]}
        for message in read.messages
    ]
    return replace(read, messages=messages, hashed=messages, clamped=read.clamped + clamped)


def _filled(part: Mapping[str, Any], refs: Iterator[str], boxes: Iterator[str]) -> dict[str, Any]:
    if part["type"] != "text":
        return dict(part)
    first, *others = part["text"].split(REF)
    text = first + "".join(f"<ref>{next(refs)}</ref>{other}" for other in others)
    # A phrase is text of the record and may contain no placeholder of a box.
    first, *others = text.split(BOX)
    return {"type": "text", "text": first + "".join(next(boxes) + other for other in others)}


def _objects(objects: Any, box_format: str | None) -> _Objects | list[Fault]:
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            return [("objects", shown(objects), "a list or dict, or JSON of one")]
    if isinstance(objects, Mapping):
        return _new_objects(objects, box_format)
    if isinstance(objects, list):
        return _old_objects(objects, box_format)
    return [("objects", shown(objects), "{'ref', 'bbox'} or a list of {'caption', 'bbox'}")]


def _new_objects(objects: Mapping[str, Any], box_format: str | None) -> _Objects | list[Fault]:
    refs, listed = objects.get("ref") or [], objects.get("bbox") or []
    unit = _unit(objects.get("bbox_type"), box_format)
    for name, items in (("ref", refs), ("bbox", listed)):
        if not isinstance(items, list):
            return [(f"objects.{name}", shown(items), "a list")]
    numbers = objects.get("image_id")
    numbers = [0] * len(listed) if numbers is None else numbers
    if not isinstance(numbers, list) or len(numbers) != len(listed) or not all(map(_is_index, numbers)):
        return [("objects.image_id", shown(numbers), "a number of an image for each bbox, from 0")]
    faults = [(f"objects.{name}", "an unknown field", f"only {', '.join(_NEW_FIELDS)}")
              for name in objects if name not in (*_NEW_FIELDS, "width", "height")]  # fmt: skip
    faults += [(f"objects.ref[{i}]", shown(ref), "a text") for i, ref in enumerate(refs) if not _is_phrase(ref)]
    faults += [(f"objects.bbox[{i}]", *_came(box)) for i, box in enumerate(listed) if not _is_box(box)]
    if unit is None:
        return [*faults, ("objects.bbox_type", shown(objects["bbox_type"]), f"one of {', '.join(_UNITS)}")]
    if faults:
        return faults
    boxes = zip(listed, numbers)
    return _Objects(refs, [_Boxes([box], unit, n, f"objects.bbox[{i}]") for i, (box, n) in enumerate(boxes)], False)


def _old_objects(objects: list[Any], box_format: str | None) -> _Objects | list[Fault]:
    result = _Objects([], [], True)
    for index, item in enumerate(objects):
        where = f"objects[{index}]"
        if not isinstance(item, Mapping):
            return [(where, shown(item), "{'caption', 'bbox', 'bbox_type', 'image'}")]
        for name in item:
            if name not in _OLD_FIELDS:
                return [(f"{where}.{name}", "an unknown field", f"only {', '.join(_OLD_FIELDS)}")]
        listed, unit, image = item.get("bbox"), _unit(item.get("bbox_type"), box_format), item.get("image", 0)
        if _is_box(listed):
            listed = [listed]
        if not isinstance(listed, list) or not listed or not all(map(_is_box, listed)):
            return [(f"{where}.bbox", *_came(listed))]
        if unit is None:
            return [(f"{where}.bbox_type", shown(item["bbox_type"]), f"one of {', '.join(_UNITS)}")]
        if not _is_index(image):
            return [(f"{where}.image", shown(image), "the number of an image, from 0")]
        if not _is_phrase(item.get("caption")):
            return [(f"{where}.caption", shown(item.get("caption")), "a text")]
        result.refs.append(item["caption"])
        result.boxes.append(_Boxes(listed, unit, image, f"{where}.bbox"))
    return result


def _unit(bbox_type: Any, box_format: str | None) -> str | None:
    """The record's unit, else that of the options, else pixels, ms-swift's default; None if it is unknown."""
    if bbox_type is None:
        return box_format or PIXELS
    return _UNITS.get(bbox_type) if isinstance(bbox_type, str) else None


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_phrase(value: Any) -> bool:
    """Whether a value is a text without placeholders."""
    return isinstance(value, str) and REF not in value and BOX not in value


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _came(value: Any) -> tuple[str, str]:
    are_numbers = isinstance(value, list) and value and all(map(_is_number, value))
    return f"{len(value)} numbers" if are_numbers else shown(value), "x1, y1, x2, y2"
