"""Files of conversations to records: what training, calibration and evaluation read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...chat.messages import Message, conversation_to_messages, message_images, normalize_messages
from ...errors import RecordError
from ..configuration import nearest
from .json_values import Entry, read_entries
from .pictures import is_file_name
from .problems import Problem, RecordLocation


@dataclass(frozen=True)
class Record:
    """A conversation to learn from.

    Attributes:
        location: where it stands.
        messages: normalised (:func:`~paddlemix.chat.messages.normalize_messages`); pictures are absolute paths, data
            URLs or addresses.
        labelled: whether the texts hold the ``Picture N: `` of their pictures already, as those of the original do.
        digest: of the conversation as it stands in the file, 16 hexadecimal digits; the same wherever it stands.
    """

    location: RecordLocation
    messages: list[Message]
    labelled: bool
    digest: str

    @property
    def images(self) -> list[str]:
        """The pictures, in order of appearance."""
        return message_images(self.messages)


class RecordFile(NamedTuple):
    """The well-formed records of a file, and what is wrong with the others."""

    records: list[Record]
    problems: list[Problem]


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a file that has to be free of faults.

    The file is a JSON list, or JSON lines. An entry is a list of messages, ``{"messages": [...]}``, or a record of the
    original, ``{"conversations": [{"from", "value"}]}``, in which pictures are ``<img>path</img>`` with their labels.
    Paths of pictures are relative to the file.

    Raises:
        ConfigurationError: a file that cannot be read, or holds nothing.
        RecordError: a malformed record, with its line.
    """
    records, problems = read_record_file(path)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RecordError(f"{problems[0]}{more}")
    return records


def read_record_file(path: str | os.PathLike[str]) -> RecordFile:
    """As :func:`read_records`, but with malformed records as problems.

    Raises:
        ConfigurationError: a file that cannot be read, or holds nothing.
    """
    folder = Path(path).absolute().parent
    result = RecordFile([], [])
    for entry in read_entries(path):
        problems = [entry] if isinstance(entry, Problem) else list(_form_problems(entry))
        if problems:
            result.problems.extend(problems)
        else:
            result.records.append(_record(entry, folder))
    return result


def _record(entry: Entry, folder: Path) -> Record:
    name, turns = _turns(entry.value)
    labelled = name == "conversations"
    messages = conversation_to_messages(turns) if labelled else normalize_messages(turns)
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image" and is_file_name(part["image"]):
                part["image"] = os.path.normpath(folder / part["image"])
    canonical = json.dumps(turns, ensure_ascii=True, sort_keys=True)
    return Record(entry.location, messages, labelled, hashlib.sha256(canonical.encode()).hexdigest()[:16])


def _turns(value: Any) -> tuple[str, Any]:
    """The name of the list of turns, and that list."""
    if not isinstance(value, Mapping):
        return "messages", value
    name = "conversations" if "conversations" in value else "messages"
    return name, value.get(name)


# ---------------------------------------------------------------- what is wrong with the form of an entry


class _Schema(NamedTuple):
    role: str
    content: str
    roles: tuple[str, ...]


_SCHEMAS = {
    "conversations": _Schema("from", "value", ("user", "assistant")),
    "messages": _Schema("role", "content", ("system", "user", "assistant")),
}
_PARTS = {"text": "text", "image": "image", "image_url": "image_url"}


def _form_problems(entry: Entry) -> Iterator[Problem]:
    for field, came, expected in _faults(entry.value):
        yield Problem(entry.location, field, came, expected)


_Fault = tuple[str, str, str]
"""Field, what came, what was expected."""


def _faults(value: Any) -> Iterator[_Fault]:
    name, turns = _turns(value)
    if not isinstance(value, (Mapping, list)) or (isinstance(value, Mapping) and name not in value):
        came = f"the fields {', '.join(map(repr, value)) or 'none'}" if isinstance(value, Mapping) else _shown(value)
        yield "", came, "{'conversations': [...]}, {'messages': [...]} or a list of messages"
        return
    if isinstance(value, Mapping):
        yield from _unknown_fields(value, ("id", name), "")
    if not isinstance(turns, list) or not turns:
        yield name, _shown(turns), "a list of turns, not empty"
        return
    before = []
    schema = _SCHEMAS[name]
    for index, turn in enumerate(turns):
        where = f"{name}[{index}]"
        if not isinstance(turn, Mapping):
            yield where, _shown(turn), f"{{'{schema.role}', '{schema.content}'}}"
            return
        yield from _unknown_fields(turn, (schema.role, schema.content), where)
        role = turn.get(schema.role)
        if role not in schema.roles:
            yield f"{where}.{schema.role}", _shown(role), f"one of {', '.join(schema.roles)}"
            return
        yield from _order_faults(role, before, f"{where}.{schema.role}")
        before.append(role)
        yield from _content_faults(turn.get(schema.content), role, name, f"{where}.{schema.content}")
    if before[-1] != "assistant":
        yield f"{name}[{len(before) - 1}]", f"the {before[-1]}'s turn as the last one", "an answer after it"


def _order_faults(role: str, before: Sequence[str], where: str) -> Iterator[_Fault]:
    """Users and assistants take turns, the user first; a system message stands before all."""
    last = before[-1] if before else None
    if role == "system":
        if before:
            yield where, "a system message after other messages", "it to be the first"
    elif role == last:
        yield where, f"two {role} turns in a row", "user and assistant in turn"
    elif role == "assistant" and last != "user":
        yield where, "an answer before any question", "the user's turn first"


def _content_faults(content: Any, role: str, name: str, where: str) -> Iterator[_Fault]:
    if isinstance(content, str):
        return
    if name == "conversations" or not isinstance(content, list):
        yield where, _shown(content), "a text" if name == "conversations" else "a text or a list of parts"
        return
    for index, part in enumerate(content):
        yield from _part_faults(part, role, f"{where}[{index}]")


def _part_faults(part: Any, role: str, where: str) -> Iterator[_Fault]:
    if isinstance(part, str):
        return
    if not isinstance(part, Mapping):
        yield where, _shown(part), "{'type': 'text', 'text'} or {'type': 'image', 'image'}"
        return
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        yield f"{where}.type", _shown(kind), f"one of {', '.join(_PARTS)}"
        return
    name = _PARTS[kind]
    yield from _unknown_fields(part, ("type", name), where)
    value = part.get(name)
    if kind == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str) or not (value or kind == "text"):
        yield f"{where}.{name}", _shown(value), "a text" if kind == "text" else "a path, address or data URL"
    elif kind != "text" and role != "user":
        yield where, f"a picture in the {role}'s message", "pictures in the user's messages only"


def _unknown_fields(value: Mapping[str, Any], known: Sequence[str], where: str) -> Iterator[_Fault]:
    for name in value:
        if name not in known:
            field = f"{where}.{name}" if where else name
            yield field, "an unknown field", f"only {', '.join(known)}{nearest_known(name, known)}"


def nearest_known(name: str, known: Sequence[str]) -> str:
    """ "; did you mean X?" where a known name is near, else nothing."""
    words = nearest(name, known)
    return words if "did you mean" in words else ""


def _shown(value: Any) -> str:
    """A value for a message: what it is where it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, Mapping)):
        return f"an empty {type(value).__name__}" if not value else type(value).__name__
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"
