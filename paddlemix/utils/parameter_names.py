"""Names of layers and parameters as users write them: ends of names, globs, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` is ``name`` or its end after a dot; ``*``, ``?`` and ``[…]`` are as in file names."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def is_glob(pattern: str) -> bool:
    """Whether a pattern has characters that stand for others."""
    return any(character in pattern for character in "*?[")


def similar(pattern: str, names: Iterable[str], count: int = 3, cutoff: float = 0.0) -> list[str]:
    """The names, or ends of names, that look most like a pattern that matches none; layers' numbers become ``*``."""
    ends: dict[str, None] = {}
    for name in names:
        parts = _NUMBER.sub("*", name).split(".")
        ends.update(dict.fromkeys(".".join(parts[start:]) for start in range(len(parts))))
    candidates = [end for end in ends if not end.startswith("*.")]
    return difflib.get_close_matches(pattern, candidates, count, cutoff)
