"""The native formats: messages, and the original's conversations with ``<img>path</img>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...models.qwen_vl.messages import conversation_to_messages, normalize_messages
from .common import Conversation, Fault, order_faults, shown, unknown_fields


class _Schema(NamedTuple):
    role: str
    content: str
    roles: tuple[str, ...]


_SCHEMAS = {
    "conversations": _Schema("from", "value", ("user", "assistant")),
    "messages": _Schema("role", "content", ("system", "user", "assistant")),
}
_FORMATS = (
    "{'conversations': [...]}, {'messages': [...]}, a list of messages, or a format of LLaVA, ms-swift or LLaMA-Factory"
)
_PARTS = {"text": "text", "image": "image", "image_url": "image_url"}


def read(value: Any) -> Conversation | list[Fault]:
    """Read a list of messages, ``{"messages": [...]}``, or ``{"conversations": [{"from", "value"}]}``."""
    faults = list(_faults(value))
    if faults:
        return faults
    name, turns = _turns(value)
    labeled = name == "conversations"
    messages = conversation_to_messages(turns) if labeled else normalize_messages(turns)
    fields = [f"{name}[{index}].{_SCHEMAS[name].content}" for index in range(len(turns))]
    return Conversation(messages, fields, labeled, hashed=turns, foreign=False)


def _turns(value: Any) -> tuple[str, Any]:
    """The name of the list of turns, and that list."""
    if not isinstance(value, Mapping):
        return "messages", value
    name = "conversations" if "conversations" in value else "messages"
    return name, value.get(name)


def _faults(value: Any) -> Iterator[Fault]:
    name, turns = _turns(value)
    if not isinstance(value, (Mapping, list)) or (isinstance(value, Mapping) and name not in value):
        came = f"the fields {', '.join(map(repr, value)) or 'none'}" if isinstance(value, Mapping) else shown(value)
        yield "", came, _FORMATS
        return
    if isinstance(value, Mapping):
        yield from unknown_fields(value, ("id", name), "")
    if not isinstance(turns, list) or not turns:
        yield name, shown(turns), "a list of turns, not empty"
        return
    before: list[tuple[str, str]] = []
    schema = _SCHEMAS[name]
    for index, turn in enumerate(turns):
        where = f"{name}[{index}]"
        if not isinstance(turn, Mapping):
            yield where, shown(turn), f"{{'{schema.role}', '{schema.content}'}}"
            return
        yield from unknown_fields(turn, (schema.role, schema.content), where)
        role = turn.get(schema.role)
        if role not in schema.roles:
            yield f"{where}.{schema.role}", shown(role), f"one of {', '.join(schema.roles)}"
            return
        before.append((role, f"{where}.{schema.role}"))
        yield from _content_faults(turn.get(schema.content), role, name, f"{where}.{schema.content}")
    yield from order_faults(before)


def _content_faults(content: Any, role: str, name: str, where: str) -> Iterator[Fault]:
    if isinstance(content, str):
        return
    if name == "conversations" or not isinstance(content, list):
        yield where, shown(content), "a text" if name == "conversations" else "a text or a list of parts"
        return
    for index, part in enumerate(content):
        yield from _part_faults(part, role, f"{where}[{index}]")


def _part_faults(part: Any, role: str, where: str) -> Iterator[Fault]:
    if isinstance(part, str):
        return
    if not isinstance(part, Mapping):
        yield where, shown(part), "{'type': 'text', 'text'} or {'type': 'image', 'image'}"
        return
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        yield f"{where}.type", shown(kind), f"one of {', '.join(_PARTS)}"
        return
    name = _PARTS[kind]
    yield from unknown_fields(part, ("type", name), where)
    value = part.get(name)
    if kind == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str) or not (value or kind == "text"):
        yield f"{where}.{name}", shown(value), "a text" if kind == "text" else "a path, URL or data URL"
    elif kind != "text" and role != "user":
        yield where, f"an image in the {role}'s message", "images in the user's messages only"
