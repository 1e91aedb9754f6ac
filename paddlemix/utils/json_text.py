"""JSON as people and other tools write it: read strictly, with bounds, and with a reason when it is refused."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64
"""Lists and objects inside each other; what this package reads needs five."""

_BLANK = re.compile(r"[ \t\r\n]*")
_PYTHON_LITERAL = re.compile(r"(?:True|False|None)\b")


class JSONError(ValueError):
    """Text that is no JSON, or JSON beyond the bounds; the message is one line and names the place.

    Callers turn it into an error of their own that names the file.
    """


def parse_json(text: str, *, allow_nan: bool = False, unique_names: bool = False, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text.

    Args:
        text: the whole text; a byte order mark is not part of it (:func:`paddlemix.utils.files.strip_bom`).
        allow_nan: take ``NaN`` and ``Infinity``, which Python writes and JSON does not have.
        unique_names: refuse an object in which a name stands twice; otherwise the last one counts.
        max_depth: how many lists and objects may stand inside each other.

    Raises:
        JSONError: anything else, however hostile: too deep, integers of thousands of digits, comments.
    """
    decoder = json.JSONDecoder(
        parse_constant=None if allow_nan else _refuse_constant,
        object_pairs_hook=_unique if unique_names else None,
    )
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise JSONError(explain(error)) from error
    except RecursionError as error:
        raise JSONError(_too_deep(max_depth)) from error
    except JSONError:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise JSONError("it has an integer of thousands of digits") from error
    check_depth(value, max_depth)
    return value


def check_depth(value: Any, max_depth: int = MAX_DEPTH) -> None:
    """Raise JSONError where more than ``max_depth`` lists and objects stand inside each other."""
    level = [value]
    for _ in range(max_depth):
        level = [child for item in level for child in _children(item) if isinstance(child, (dict, list))]
        if not level:
            return
    raise JSONError(_too_deep(max_depth))


def _too_deep(max_depth: int) -> str:
    return f"its lists and objects are nested too deeply (more than {max_depth} inside each other)"


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANK.match(text, position)
    return blanks.end() if blanks else position


def explain(error: json.JSONDecodeError) -> str:
    """The message for text that is no JSON: what stands there instead, where that is a known habit, and the place."""
    text, position = error.doc, error.pos
    if not text.strip():
        return "it is empty"
    position = _after_blanks(text, position)
    # Python 3.13 points at the comma itself, older versions at what follows it.
    ahead = text[position : position + 8]
    before = text[max(position - 256, 0) : position].rstrip()
    after_comma = text[_after_blanks(text, position + 1) :][:1] if ahead.startswith(",") else ahead[:1]
    place = f"line {text.count(chr(10), 0, position) + 1}"
    if ahead.startswith(("//", "/*", "#")):
        return f"JSON has no comments: {place}; remove it"
    if after_comma in ("}", "]") and (ahead.startswith(",") or before.endswith(",")):
        return f"JSON has no comma before a closing {after_comma}: {place}; remove it"
    if ahead.startswith("'"):
        return f"JSON has no single quotes: {place}; write names and texts in double quotes"
    literal = _PYTHON_LITERAL.match(ahead)
    if literal:
        return f"JSON writes true, false and null: {place}, got {literal.group()}"
    if position >= len(text):
        return f"it ends in the middle: {place}"
    return f"{error.msg}: {place}, column {position - text.rfind(chr(10), 0, position)}"


def _children(item: Any) -> Any:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise JSONError(f"{name[:80]!r} stands there twice; keep one")
        result[name] = value
    return result


def _refuse_constant(name: str) -> Any:
    raise JSONError(f"JSON has no {name}; write a number")
