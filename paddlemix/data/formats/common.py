"""What the record formats share: turns, images at their placeholders, metadata fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...models.qwen_vl.messages import Message, Part, split_images
from ...utils.display import did_you_mean

IMAGE = "<image>"

#: fields of other projects' records that have no effect on training
METADATA = frozenset(
    {
        *("id", "idx", "index", "uid", "question_id", "image_id", "model", "data_source", "source", "dataset"),
        *("task", "type", "category", "split", "width", "height", "width_list", "height_list"),
    }
)
_UNSUPPORTED = {
    **dict.fromkeys(("video", "videos", "audio", "audios"), "images only: this model has no video or audio input"),
    **dict.fromkeys(("tools", "functions"), "none: this model has no tool format"),
    **dict.fromkeys(
        ("chosen", "rejected", "rejected_response", "rejected_messages", "rejected_images", "kto_tag", "label"),
        "one answer: training on preferences is not supported",
    ),
}
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TOOL_ROLES = frozenset({"observation", "function_call", "function", "tool", "tool_call", "tool_response"})

Fault = tuple[str, str, str]
"""Field, what came, what was expected."""


@dataclass(frozen=True)
class Conversation:
    """A record independent of its format.

    Attributes:
        messages: normalized; image sources as in the file.
        fields: the file's name for the content of each message.
        labeled: whether the texts contain the ``Picture N: `` labels of their images.
        hashed: the value that the content hash is of.
        foreign: whether the format is another project's.
        clamped: number of boxes in which 1000 was clamped to 999.
    """

    messages: list[Message]
    fields: list[str]
    labeled: bool
    hashed: Any
    foreign: bool = True
    clamped: int = 0


class Turn(NamedTuple):
    """A turn before its images are inserted.

    Attributes:
        role: system, user or assistant.
        text: with placeholders.
        field: the file's name for the text.
    """

    role: str
    text: str
    field: str


def turns_of(
    entries: Any, name: str, role_field: str, text_field: str, ignored: Sequence[str] = ()
) -> Iterator[Turn | Fault]:
    """The turns of a list of ``{role_field, text_field}``, or their faults.

    Args:
        entries: the list.
        name: of the list in the record.
        role_field: name of the role, whose values may be those of any project.
        text_field: name of the text.
        ignored: further fields that a turn may have.
    """
    if not isinstance(entries, list) or not entries:
        yield name, shown(entries), "a list of turns, not empty"
        return
    for index, entry in enumerate(entries):
        where = f"{name}[{index}]"
        if not isinstance(entry, Mapping):
            yield where, shown(entry), f"{{'{role_field}', '{text_field}'}}"
            return
        yield from unknown_fields(entry, (role_field, text_field, *ignored), where)
        role, text = entry.get(role_field), entry.get(text_field)
        if isinstance(role, str) and role in _TOOL_ROLES:
            yield f"{where}.{role_field}", shown(role), "user and assistant: this model has no tool format"
            return
        if not isinstance(role, str) or role not in _ROLES:
            yield f"{where}.{role_field}", shown(role), f"one of {', '.join(_ROLES)}"
            return
        if not isinstance(text, str):
            yield f"{where}.{text_field}", shown(text), "a text"
            return
        yield Turn(_ROLES[role], text, f"{where}.{text_field}")


def system_turn(value: Mapping[str, Any]) -> Iterator[Turn | Fault]:
    """The system message in a field beside the turns, if there is one."""
    system = value.get("system")
    if isinstance(system, str) and system:
        yield Turn("system", system, "system")
    elif system not in (None, ""):
        yield "system", shown(system), "a text"


def pairs_of(value: Mapping[str, Any], query: str, response: str, query_text: Any) -> Iterator[Turn | Fault]:
    """The turns of a record with ``system``, ``history`` and one question and answer.

    Args:
        value: the record.
        query: name of the question's field.
        response: name of the answer's field.
        query_text: the question, which may be composed of several fields.
    """
    yield from system_turn(value)
    history = value.get("history")
    if not isinstance(history, (list, type(None))):
        yield "history", shown(history), "a list of [question, answer]"
        return
    for index, pair in enumerate(history or ()):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            yield f"history[{index}]", shown(pair), "[question, answer]"
            return
        yield Turn("user", pair[0], f"history[{index}][0]")
        yield Turn("assistant", pair[1], f"history[{index}][1]")
    for role, field, text in (("user", query, query_text), ("assistant", response, value.get(response))):
        if isinstance(text, str):
            yield Turn(role, text, field)
        else:
            yield field, shown(text), "a text"


def image_list(value: Mapping[str, Any], names: Sequence[str]) -> tuple[list[str], list[Fault]]:
    """The image sources of a record, and their faults.

    Args:
        value: the record.
        names: fields of which one may hold a source, or a list of sources or of ``{"path"}`` or ``{"url"}``.
    """
    given = [name for name in names if value.get(name) is not None]
    if not given:
        return [], []
    if len(given) > 1:
        return [], [(given[1], f"it beside {given[0]}", "one of them")]
    name = given[0]
    items = value[name] if isinstance(value[name], list) else [value[name]]
    sources, faults = [], []
    for index, item in enumerate(items):
        source = item.get("path") or item.get("url") if isinstance(item, Mapping) else item
        if isinstance(source, str) and source:
            sources.append(source)
        else:
            where = f"{name}[{index}]" if isinstance(value[name], list) else name
            faults.append((where, shown(item), "a path, URL or data URL"))
    return sources, faults


def conversation(
    value: Mapping[str, Any],
    found: Iterator[Turn | Fault],
    *,
    image_fields: Sequence[str],
    first: bool = False,
    inline: bool = False,
) -> Conversation | list[Fault]:
    """The conversation of turns with images in place of their placeholders, or its faults.

    Args:
        value: the record.
        found: its turns and their faults.
        image_fields: fields that may hold the images.
        first: whether images without any placeholder are put before the first question.
        inline: whether ``<img>path</img>`` in a question is an image as well.
    """
    turns: list[Turn] = []
    images, faults = image_list(value, image_fields)
    for item in found:
        if isinstance(item, Turn):
            turns.append(item)
        else:
            faults.append(item)
    if not faults:
        faults += order_faults([(turn.role, turn.field) for turn in turns])
    if not faults:
        given = next((name for name in image_fields if value.get(name) is not None), image_fields[0])
        faults += _image_faults(turns, images, given, first)
    if faults:
        return faults
    waiting = iter(images)
    if first and images and not any(IMAGE in turn.text for turn in turns):
        index = next(index for index, turn in enumerate(turns) if turn.role == "user")
        turns[index] = turns[index]._replace(text=IMAGE * len(images) + turns[index].text)
    messages: list[Message] = []
    for turn in turns:
        parts = _parts(turn.text, waiting, inline) if turn.role == "user" else [{"type": "text", "text": turn.text}]
        messages.append({"role": turn.role, "content": [part for part in parts if part.get("text") != ""]})
    return Conversation(messages, [turn.field for turn in turns], labeled=False, hashed=messages)


def _parts(text: str, images: Iterator[str], inline: bool) -> list[Part]:
    parts: list[Part] = []
    for index, piece in enumerate(text.split(IMAGE)):
        if index:
            parts.append({"type": "image", "image": next(images)})
            piece = piece.removeprefix("\n")  # rendering ends the line after an image
        parts += split_images(piece) if inline else [{"type": "text", "text": piece}]
    return parts


def _image_faults(turns: Sequence[Turn], images: Sequence[str], field: str, first: bool) -> Iterator[Fault]:
    for turn in turns:
        if turn.role != "user" and IMAGE in turn.text:
            yield turn.field, f"{IMAGE} in the {turn.role}'s turn", "images in the user's turns only"
    placeholders = sum(turn.text.count(IMAGE) for turn in turns)
    if placeholders != len(images) and not (first and not placeholders):
        yield field, f"{len(images)} images for {placeholders} {IMAGE}", "as many images as placeholders"


def order_faults(turns: Sequence[tuple[str, str]]) -> Iterator[Fault]:
    """Check that user and assistant alternate, the user first, after at most one system message.

    Args:
        turns: (role, field) of each turn.
    """
    last = None
    for index, (role, where) in enumerate(turns):
        if role == "system":
            if index:
                yield where, "a system message after other messages", "it to be the first"
        elif role == last:
            yield where, f"two {role} turns in a row", "user and assistant in turn"
        elif role == "assistant" and last != "user":
            yield where, "an answer before any question", "the user's turn first"
        last = role
    if last is not None and last != "assistant":
        field = turns[-1][1]
        yield field.rpartition(".")[0] or field, f"the {last}'s turn as the last one", "an answer after it"


def unsupported_fields(value: Mapping[str, Any]) -> Iterator[Fault]:
    """Fields of other projects that need what cannot be trained; empty ones are ignored."""
    for name, expected in _UNSUPPORTED.items():
        if value.get(name):
            yield name, shown(value[name]), expected


def foreign_fields(value: Mapping[str, Any], known: Sequence[str]) -> Iterator[Fault]:
    """Unknown and unsupported fields of another project's record."""
    yield from unsupported_fields(value)
    yield from unknown_fields({name: value[name] for name in value if name not in _UNSUPPORTED}, known, "", METADATA)


def unknown_fields(
    value: Mapping[str, Any], known: Sequence[str], where: str, ignored: frozenset[str] = frozenset()
) -> Iterator[Fault]:
    """Fields that are neither known nor ignored.

    Args:
        value: the record or a part of it.
        known: names of its fields.
        where: name of the part; "" for the record.
        ignored: further names.
    """
    for name in value:
        if name not in known and name not in ignored:
            field = f"{where}.{name}" if where else name
            yield field, "an unknown field", f"only {', '.join(known)}{did_you_mean(name, known)}"


def shown(value: Any) -> str:
    """A value for a message; of lists and objects the type."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, Mapping)):
        return f"an empty {type(value).__name__}" if not value else type(value).__name__
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
