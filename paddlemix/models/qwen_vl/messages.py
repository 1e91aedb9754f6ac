"""The message schema of every entry point, and its conversion from and to the original's forms and JSON.

A conversation is a list of ``{"role": "system" | "user" | "assistant", "content": ...}``; only the first message may be
the system's, and only the user's hold images. Content is a string or a list of parts: ``{"type": "text", "text":
str}`` and ``{"type": "image", "image": X}``, where X is whatever the image loader takes (PIL image, path, bytes, data
or http(s) URL, array). OpenAI's ``{"type": "image_url", "image_url": {"url": ...}}`` is an image too. The user may
point at a region: ``{"type": "box", "label": str or None, "box": [x1, y1, x2, y2]}``, in thousandths of the image's
width and height. Text is only text.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ...errors import PromptError
from ...utils.display import quoted
from ...utils.json_text import JSONError, parse_json
from .grounding import box_text
from .image_placeholders import split_text
from .list_format import history_turns
from .vocabulary import IMG_END, IMG_START, REF_END, REF_START

DEFAULT_MAX_IMAGES = 32
"""Most images of one conversation, unless its processor says otherwise."""

ROLES = ("system", "user", "assistant")

Message = dict[str, Any]
Part = dict[str, Any]
History = list[tuple[str, Optional[str]]]

_LABEL = re.compile(r"Picture \d+: ?\Z")


def normalize_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """``messages`` as fresh ``{"role", "content": [parts]}`` dicts, parts being of type "text", "image" and "box" only.

    Images are passed on unopened; empty text parts are dropped.

    Raises:
        PromptError: with index and field.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise PromptError(f"messages: got {type(messages).__name__}, expected a list of {{'role', 'content'}} dicts")
    if not messages:
        raise PromptError("messages: the list is empty, expected at least one message")
    return [_normalize_message(message, index) for index, message in enumerate(messages)]


def _normalize_message(message: Mapping[str, Any], index: int) -> Message:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise PromptError(f"{where}: got {type(message).__name__}, expected a dict with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise PromptError(f"{where}.role: got {_shown(role)}, expected one of {', '.join(ROLES)}")
    if role == "system" and index > 0:
        raise PromptError(f"{where}.role: got 'system', which only the first message may have")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise PromptError(f"{where}.content: got {type(content).__name__}, expected str or a list of parts")
    parts = [_normalize_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
    for kind in ("image", "box"):
        if role != "user" and any(part["type"] == kind for part in parts):
            article = "an" if kind == "image" else "a"
            raise PromptError(f"{where}.content: {article} {kind} in a message of role {role!r}, expected role 'user'")
    return {"role": role, "content": [part for part in parts if part.get("text") != ""]}


def _normalize_part(part: Any, where: str) -> Part:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise PromptError(f"{where}: got {type(part).__name__}, expected a dict with 'type'")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise PromptError(f"{where}.text: got {type(part.get('text')).__name__}, expected str")
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        if part.get("image") is None:
            raise PromptError(f"{where}.image: got nothing, expected an image, path or URL")
        return {"type": "image", "image": part["image"]}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str) or not url:
            raise PromptError(f"{where}.image_url: got {type(url).__name__}, expected {{'url': str}}")
        return {"type": "image", "image": url}
    if kind == "box":
        return box_part(part, where)
    raise PromptError(f"{where}.type: got {_shown(kind)}, expected 'text', 'image' or 'image_url'")


def box_part(part: Mapping[str, Any], where: str) -> Part:
    """A fresh part of type "box", checked.

    Raises:
        PromptError: the label is no text, or the box not four integers from 0 to 1000, the upper left corner first.
    """
    label, box = part.get("label"), part.get("box")
    if label is not None and not isinstance(label, str):
        raise PromptError(f"{where}.label: got {type(label).__name__}, expected str or nothing")
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(type(n) is int and 0 <= n <= 1000 for n in box):
        raise PromptError(f"{where}.box: expected [x1, y1, x2, y2], integers from 0 to 1000")
    x1, y1, x2, y2 = box
    if x1 > x2 or y1 > y2:
        raise PromptError(f"{where}.box: expected the upper left corner before the lower right one")
    return {"type": "box", "label": label, "box": [x1, y1, x2, y2]}


def box_pieces(part: Part) -> list[tuple[str, bool]]:
    """A part of type "box" as texts in order; with each whether its tags are tags."""
    place = (box_text(part["box"]), True)
    if part["label"] is None:
        return [place]
    return [(REF_START, True), (part["label"], False), (REF_END, True), place]


def _shown(value: Any) -> str:
    """A foreign value, for a message: text cut short; of others the type, for they may be of any depth."""
    return quoted(value) if isinstance(value, str) else "None" if value is None else type(value).__name__


def user_message(text: str, images: Any = None) -> Message:
    """A user's message: the images (one of them, a list or tuple, or None), then the text."""
    parts = [{"type": "image", "image": image} for image in image_list(images)]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def image_list(images: Any) -> list[Any]:
    """The images of a question, which may be given as one of them, a list or tuple, or None."""
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def check_image_count(images: Sequence[Any], most: int = DEFAULT_MAX_IMAGES, name: str = "images") -> None:
    """Raise PromptError for too many images, before any of them is opened. ``name``: what the user calls them."""
    if len(images) > most:
        raise PromptError(f"{name}: {len(images)} images, expected at most {most}")


def check_question(text: str, images: Sequence[Any], name: str = "text") -> None:
    """Raise PromptError unless ``text`` is a str and there is something to answer. ``name``: what the user calls it."""
    if not isinstance(text, str):
        raise PromptError(f"{name}: got {type(text).__name__}, expected a str")
    if not text.strip() and not images:
        raise PromptError(f"{name}: empty, expected a question or at least one image")


def message_images(messages: Sequence[Message]) -> list[Any]:
    """The images of normalized messages, in order."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


# ---------------------------------------------------------------- the original's forms


def history_to_messages(
    history: Sequence[tuple[str, str | None]], system: str | None = None, *, keep_labels: bool = False
) -> list[Message]:
    """The original's ``[(query, response)]`` as messages; ``<img>path</img>`` in a query becomes an image.

    A response of None (not answered yet) gives no message. Rendering puts ``Picture N: `` before and a line end after
    each image, so these are taken out of the text here; with ``keep_labels`` the text stays as it is, to be rendered
    with ``image_labels=False``: then the prompt is that of the original, whatever the text looks like.
    Tags of references and boxes stay in the text; render it with ``trusted_tags=True`` to have them read.

    Raises:
        PromptError: a turn that is no such pair, named by its index.
    """
    messages: list[Message] = []
    if system is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": system}]})
    for query, response in history_turns(history):
        messages.append({"role": "user", "content": split_images(query, keep_labels=keep_labels)})
        if response is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
    return normalize_messages(messages) if messages else []


def messages_to_history(messages: Sequence[Mapping[str, Any]]) -> tuple[History, str | None]:
    """Messages as the original's ``[(query, response)]`` and the system text (None without a system message).

    A question without an answer has the response None.

    Raises:
        PromptError: what the form has no room for: images that are not paths or URLs, an answer without a question,
            text with ``<img>`` or ``</img>`` in it.
    """
    history: History = []
    system = None
    n_images = 0
    for index, message in enumerate(normalize_messages(messages)):
        text, n_images = _flat_text(message, index, n_images)
        if message["role"] == "system":
            system = text
        elif message["role"] == "user":
            history.append((text, None))
        elif history and history[-1][1] is None:
            history[-1] = (history[-1][0], text)
        else:
            raise PromptError(f"messages[{index}]: an answer without a question, which a history cannot hold")
    return history, system


def _flat_text(message: Message, index: int, n_images: int) -> tuple[str, int]:
    texts = []
    for i, part in enumerate(message["content"]):
        where = f"messages[{index}].content[{i}]"
        if part["type"] == "box":
            part = {"type": "text", "text": "".join(text for text, _ in box_pieces(part))}
        source = part["text"] if part["type"] == "text" else part["image"]
        if not isinstance(source, (str, os.PathLike)):
            raise PromptError(f"{where}.image: got {type(source).__name__}, expected a path or URL in a history")
        source = os.fspath(source)
        if message["role"] == "user" and (IMG_START in source or IMG_END in source):
            raise PromptError(f"{where}: holds '<img>' or '</img>', which a history would take for an image")
        if part["type"] == "image":
            n_images += 1
            source = f"Picture {n_images}: {IMG_START}{source}{IMG_END}\n"
        texts.append(source)
    return "".join(texts), n_images


def conversation_to_messages(conversations: Sequence[Mapping[str, Any]], *, keep_labels: bool = True) -> list[Message]:
    """A fine-tuning record's ``[{"from": "user" | "assistant", "value": str}]`` as messages.

    ``keep_labels`` as in :func:`history_to_messages`.

    Raises:
        PromptError: with index and field.
    """
    messages: list[Message] = []
    for role, value in conversation_turns(conversations):
        text = [{"type": "text", "text": value}]
        messages.append({"role": role, "content": split_images(value, keep_labels) if role == "user" else text})
    return normalize_messages(messages)


def conversation_turns(conversations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The (role, text) pairs of a fine-tuning record; a leading assistant turn is dropped, as in the original.

    Raises:
        PromptError: with index and field.
    """
    if isinstance(conversations, (str, bytes, Mapping)) or not isinstance(conversations, Sequence):
        raise PromptError(f"conversations: got {type(conversations).__name__}, expected a list of dicts")
    turns = []
    for index, turn in enumerate(conversations):
        if not isinstance(turn, Mapping):
            raise PromptError(f"conversations[{index}]: got {type(turn).__name__}, expected a dict")
        role, value = turn.get("from"), turn.get("value")
        if role not in ("user", "assistant"):
            raise PromptError(f"conversations[{index}].from: got {_shown(role)}, expected 'user' or 'assistant'")
        if not isinstance(value, str):
            raise PromptError(f"conversations[{index}].value: got {type(value).__name__}, expected str")
        if index > 0 or role == "user":
            turns.append((role, value))
    return turns


def split_images(text: str, keep_labels: bool = False) -> list[Part]:
    """``text`` as parts, each ``<img>path</img>`` as an image, with or without the label and line end around it."""
    parts: list[Part] = []
    follows_image = False
    for before, path in split_text(text):
        if not keep_labels:
            before = before.removeprefix("\n") if follows_image else before
            before = before if path is None else _LABEL.sub("", before)
        parts.append({"type": "text", "text": before})
        if path is not None:
            parts.append({"type": "image", "image": path})
        follows_image = True
    return [part for part in parts if part.get("text") != ""]


# ---------------------------------------------------------------- JSON


def messages_to_json(messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as JSON. Paths and URLs stay as they are; images in memory become PNG data URLs.

    Raises:
        PromptError: malformed messages.
        ImageError: an image cannot be read.
    """
    normal = normalize_messages(messages)
    for message in normal:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = _image_text(part["image"])
    return json.dumps(normal, ensure_ascii=False, indent=2)


def messages_from_json(text: str) -> list[Message]:
    """Messages out of :func:`messages_to_json`, or any JSON of the schema.

    Raises:
        PromptError: it is no JSON, or malformed.
    """
    try:
        messages = parse_json(text)
    except JSONError as error:
        raise PromptError(f"messages: not JSON: {error}") from error
    return normalize_messages(messages)


def _image_text(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    from ...media import load_image

    image = load_image(source)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", exif=image.info.get("exif", b""))
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
