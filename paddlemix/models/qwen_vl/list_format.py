"""The original's text form of images and boxes, ``<img>path</img>`` and ``<ref>..</ref><box>..</box>``, as lists.

Everything here works on text alone and needs no vocabulary. Broken tags and boxes are plain text, never an exception.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import PromptError
from ...utils.display import quoted, shorten
from .codec import normalize_text
from .grounding import box_text, original_corners
from .vocabulary import (
    BOX_END,
    BOX_START,
    ENDOFTEXT,
    IMAGE_TAGS,
    IMG_END,
    IMG_START,
    QUAD_END,
    QUAD_START,
    REF_END,
    REF_START,
    SPECIAL_TOKENS,
)

_CLOSING = {IMG_START: IMG_END, REF_START: REF_END, BOX_START: BOX_END, QUAD_START: QUAD_END}
_KEY = {IMG_START: "image", REF_START: "ref", BOX_START: "box", QUAD_START: "quad"}
_START_TAG = re.compile("|".join(map(re.escape, _CLOSING)))
_REFUSED = re.compile("|".join(re.escape(t) for t in SPECIAL_TOKENS if t not in IMAGE_TAGS and t != ENDOFTEXT))


def from_list_format(elements: Sequence[dict[str, Any]]) -> str:
    """``[{"image": path}, {"text": str}, {"ref": str, "box": [(x1, y1, x2, y2), ..]}]`` as text of a prompt.

    An image becomes ``Picture N: <img>path</img>`` and a line end, N counting from 1 within this call. ``ref`` may be
    absent. Coordinates are cut to integers. Text is copied as it is, tags in it included.

    Raises:
        PromptError: any other element.
    """
    if isinstance(elements, (str, bytes, Mapping)) or not isinstance(elements, Iterable):
        raise PromptError(f"elements: got {type(elements).__name__}, expected a list of dicts")
    parts = []
    n_images = 0
    for index, element in enumerate(elements):
        if not isinstance(element, Mapping):
            raise PromptError(f"element {index}: got {type(element).__name__}, expected a dict")
        if "image" in element:
            n_images += 1
            parts.append(f"Picture {n_images}: {IMG_START}{_text_of(element, 'image', index)}{IMG_END}\n")
        elif "text" in element:
            parts.append(_text_of(element, "text", index))
        elif "box" in element:
            if "ref" in element:
                parts.append(f"{REF_START}{_text_of(element, 'ref', index)}{REF_END}")
            parts.extend(_box_text(box, index) for box in _boxes(element["box"], index))
        else:
            keys = quoted(", ".join(map(str, element)))
            raise PromptError(f"element {index}: got the keys {keys}, expected a key 'image', 'text' or 'box'")
    return "".join(parts)


def _text_of(element: Mapping[str, Any], key: str, index: int) -> str:
    value = element[key]
    if key == "image" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        expected = "a path or a URL; other images go into messages" if key == "image" else "a str"
        raise PromptError(f"element {index}, {key}: got {type(value).__name__}, expected {expected}")
    return value


def _boxes(boxes: Any, index: int) -> Iterable[Any]:
    if isinstance(boxes, (str, bytes, Mapping)) or not isinstance(boxes, Iterable):
        raise PromptError(f"element {index}, box: got {type(boxes).__name__}, expected a list of (x1, y1, x2, y2)")
    return boxes


def _box_text(box: Sequence[float], index: int) -> str:
    try:
        x1, y1, x2, y2 = (int(value) for value in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(
            f"element {index}, box: got {shorten(repr(box), 80)}, expected four numbers (x1, y1, x2, y2)"
        ) from error
    return box_text((x1, y1, x2, y2))


def to_list_format(text: str) -> list[dict[str, str]]:
    """The parts of ``text`` in order: {"image" | "ref" | "box" | "quad": contents} for closed tags, else {"text": ..}.

    The text is NFC normalized first. A start tag without its end tag is text, and tags inside a closed tag are
    contents.

    Raises:
        PromptError: a control token of the chat format occurs (``<|endoftext|>`` is let through).
    """
    if not isinstance(text, str):
        raise PromptError(f"text: got {type(text).__name__}, expected a str")
    text = normalize_text(text)
    refused = _REFUSED.search(text)
    if refused:
        raise PromptError(f"text: got the control token {refused.group()!r}, which no query or answer may hold")
    output: list[dict[str, str]] = []
    done = 0
    position = 0
    never_closed = set()  # a tag is looked for only once in vain, so many open tags do not cost quadratic time
    while True:
        start = _START_TAG.search(text, position)
        if start is None:
            break
        end_tag = _CLOSING[start.group()]
        end = -1 if end_tag in never_closed else text.find(end_tag, start.end())
        if end < 0:
            never_closed.add(end_tag)
            position = start.end()
            continue
        position = end + len(end_tag)
        if start.start() > done:
            output.append({"text": text[done : start.start()]})
        output.append({_KEY[start.group()]: text[start.end() : end]})
        done = position
    if done < len(text):
        output.append({"text": text[done:]})
    return output


def boxes_with_ref(text: str) -> list[dict[str, Any]]:
    """``[{"box": (x1, y1, x2, y2), "ref": str}]`` for each well-formed box; ``ref`` only on the box right after it.

    Coordinates are as in the text (0 .. 1000, unchecked). Boxes that are not four integers are left out.
    """
    output: list[dict[str, Any]] = []
    elements = to_list_format(text)
    for previous, element in zip([{}, *elements], elements):
        if "box" not in element:
            continue
        box = original_corners(element["box"])
        if box is None:
            continue
        output.append({"box": box})
        if "ref" in previous:
            output[-1]["ref"] = previous["ref"].strip()
    return output


def history_turns(history: Sequence[tuple[str, str | None]] | None) -> list[tuple[str, str | None]]:
    """The original's ``[(query, response)]``, checked; none for None.

    Raises:
        PromptError: a turn that is no such pair, named by its index.
    """
    if history is None:
        return []
    if isinstance(history, (str, bytes)) or not isinstance(history, Sequence):
        raise PromptError(f"history: got {type(history).__name__}, expected a list of pairs of query and response")
    turns = []
    for index, turn in enumerate(history):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise PromptError(f"history[{index}]: got {type(turn).__name__}, expected a pair of query and response")
        query, response = turn
        if not isinstance(query, str) or not isinstance(response, (str, type(None))):
            kinds = f"{type(query).__name__} and {type(response).__name__}"
            raise PromptError(f"history[{index}]: got {kinds}, expected a str and a str, or None for no response")
        turns.append((query, response))
    return turns


def latest_image(response: str, history: Sequence[tuple[str, str | None]] | None) -> str | None:
    """What stands in the last ``<img>..</img>`` of the response, else of the newest query that has one; else None.

    As the original looks. To open it, give no response: the model may have written any path into one.
    """
    queries = [query for query, _ in history_turns(history)]
    for text in [response, *reversed(queries)]:
        for element in reversed(to_list_format(text)):
            if "image" in element:
                return element["image"]
    return None


def color_groups(boxes: Sequence[dict[str, Any]]) -> list[int]:
    """For each box of :func:`boxes_with_ref` the number of its color.

    A box with a phrase and the boxes without one after it share a color, counted from 1; 0 stands before any phrase.
    """
    groups = []
    group = 0
    for box in boxes:
        group += "ref" in box
        groups.append(group)
    return groups
