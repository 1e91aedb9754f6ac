"""The entries of a JSON or JSON Lines file with their line numbers, which the ``json`` module does not tell."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..utils.files import read_text
from ..utils.json_text import JSONError, check_depth, explain
from .problems import Problem, RecordLocation

MAX_DATA_BYTES = 8 << 30
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
# Where reading continues after a line that is not JSON.
_NEXT_ENTRY = re.compile(r"\n(?=[{\[])")
# A list has no such line.
_UNREAD = ", and nothing after it is read"


@dataclass(frozen=True)
class Entry:
    """An unchecked JSON value.

    Attributes:
        location: where it begins.
        value: parsed.
    """

    location: RecordLocation
    value: Any


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry | Problem]:
    """The entries of a file: those of one JSON list, or JSON values one after the other (JSON Lines).

    Invalid JSON yields a problem. Reading continues with the next line that begins an entry; within a list it ends
    there, and the problem says so.

    Args:
        path: of the file.

    Raises:
        ConfigurationError: a file that cannot be read, is not UTF-8 or holds nothing.
    """
    text = _text(path)
    if not text.strip():
        raise ConfigurationError(f"{path}: the file is empty, expected a list of conversations, or one a line")
    values = _list_values(str(path), text) if _is_list_of_entries(text) else _line_values(str(path), text)
    empty = True
    for value in values:
        empty = False
        yield value
    if empty:
        raise ConfigurationError(f"{path}: got an empty list, expected conversations")


def _text(path: str | os.PathLike[str]) -> str:
    return read_text(path, limit=MAX_DATA_BYTES, error=ConfigurationError)


def _is_list_of_entries(text: str) -> bool:
    """Whether the outermost list is one of entries, rather than of the messages of a first entry."""
    start = _skip_space(text, 0)
    if text[start] != "[":
        return False
    try:
        first, _ = _DECODER.raw_decode(text, _skip_space(text, start + 1))
    except (ValueError, RecursionError):
        return True
    return not (isinstance(first, Mapping) and "role" in first)


def _list_values(path: str, text: str) -> Iterator[Entry | Problem]:
    lines = _LineCounter(path, text)
    position = _skip_space(text, _skip_space(text, 0) + 1)
    separator = ","
    if text.startswith("]", position):
        separator, position = "]", _skip_space(text, position + 1)
    while separator == ",":
        location = lines.location(position)
        try:
            value, position = _decode(text, position)
        except (ValueError, RecursionError) as error:
            yield _not_json(location, error, _UNREAD)
            return
        yield Entry(location, value)
        position = _skip_space(text, position)
        separator = text[position : position + 1]
        if separator not in (",", "]") or not separator:
            yield _unexpected(lines, text, position, "a comma or ] after a conversation")
            return
        position = _skip_space(text, position + 1)
    if position < len(text):
        yield _unexpected(lines, text, position, "nothing after the list of conversations")


def _line_values(path: str, text: str) -> Iterator[Entry | Problem]:
    lines = _LineCounter(path, text)
    position = _skip_space(text, 0)
    while position < len(text):
        location = lines.location(position)
        try:
            value, position = _decode(text, position)
        except (ValueError, RecursionError) as error:
            yield _not_json(location, error)
            following = _NEXT_ENTRY.search(text, position)
            position = following.end() if following else len(text)
        else:
            yield Entry(location, value)
        position = _skip_space(text, position)


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The value that begins at a position, and where it ends."""
    value, end = _DECODER.raw_decode(text, position)
    check_depth(value)
    return value, end


class _LineCounter:
    """Line numbers of ascending positions, without counting from the start each time."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._position = 0
        self._line = 1

    def location(self, position: int) -> RecordLocation:
        if position > self._position:
            self._line += self._text.count("\n", self._position, position)
            self._position = position
        return RecordLocation(self._path, self._line)


def _not_json(location: RecordLocation, error: ValueError | RecursionError, consequence: str = "") -> Problem:
    if isinstance(error, json.JSONDecodeError):
        came = f"no JSON ({explain(error)})"
    elif isinstance(error, (JSONError, RecursionError)):
        came = "JSON that is nested too deeply"
    else:
        came = "JSON with an integer of thousands of digits"
    return Problem(location, "", came + consequence, "a conversation in JSON")


def _unexpected(lines: _LineCounter, text: str, position: int, expected: str) -> Problem:
    came = repr(text[position : position + 20]) if position < len(text) else "the end of the file"
    return Problem(lines.location(position), "", came + _UNREAD, expected)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
