"""Showing text that came from outside — names in files, paths, answers of a model — in messages and in a terminal."""

from __future__ import annotations

import re

#: C0 and C1 controls, line and paragraph separators, what turns the direction of text, and halves of surrogate pairs
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: a name or value in a message
NAME_LIMIT = 80


def escape_controls(text: str, keep: str = "") -> str:
    """``text`` with everything that a terminal would obey, and not show, written as an escape (``\\x1b``, ``\\u202e``).

    Characters in ``keep`` stay as they are: ``"\\n\\t"`` for text of several lines.
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
