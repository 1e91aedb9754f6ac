"""Showing text that came from outside — names in files, paths, answers of a model — in messages and in a terminal."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

#: C0 and C1 controls, line and paragraph separators, what turns the direction of text, and halves of surrogate pairs
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: a name or value in a message
NAME_LIMIT = 80
#: an unknown name in a message that also suggests another
_SUGGESTED_NAME_LIMIT = 60


def escape_controls(text: str, keep: str = "") -> str:
    r"""``text`` with everything that a terminal would obey, and not show, written as an escape (``\x1b``, ``\u202e``).

    Characters in ``keep`` stay as they are: ``"\n\t"`` for text of several lines.
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shorten(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters: where it is longer, its beginning and its end with ``…`` between."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return text[: limit - 1 - tail] + "…" + text[len(text) - tail :]


def quoted(text: str, limit: int = NAME_LIMIT) -> str:
    """A name from outside, for a message: in quotes, escaped, and cut to ``limit`` characters before it is escaped."""
    return repr(shorten(text, limit))


def readable_name(name: object) -> str:
    """A name that came from outside, without quotes: escaped and cut short, for a message that begins with it."""
    return escape_controls(shorten(str(name), _SUGGESTED_NAME_LIMIT))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``"; did you mean X?"`` with the known name most similar to ``name``, or ``""`` if none is similar."""
    found = difflib.get_close_matches(readable_name(name), known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def one_line(error: BaseException) -> str:
    """An error's message, to be quoted in another one: on one line, at most 200 characters before controls are escaped;
    the name of its type where it has none.
    """
    return escape_controls((" ".join(str(error).split()) or type(error).__name__)[:200])
