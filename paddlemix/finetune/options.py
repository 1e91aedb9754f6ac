"""Kinds of configuration values: how each is checked, and how it is given on a command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..utils.arguments import boolean
from ..utils.schema import shown


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        expected: words for messages, such as "an integer of at least 1".
        convert: value as it stands in JSON -> value as the program has it; None where it cannot be one.
        argument: keywords for ``ArgumentParser.add_argument``.
    """

    expected: str
    convert: Callable[[Any], Any]
    argument: Mapping[str, Any]

    def check(self, name: str, value: Any) -> Any:
        """The converted value. Raises ConfigurationError."""
        converted = self.convert(value)
        if converted is None:
            raise ConfigurationError(f"{name}: got {shown(value)}, expected {self.expected}")
        return converted


def option(kind: Kind, text: str, **default: Any) -> Any:
    """A dataclass field of this kind with its help text; with ``default=None``, None is a value as well."""
    return field(**default, metadata={"kind": kind, "help": text, "optional": default.get("default", ...) is None})


def integer(least: int = 1, *also: int, most: int | None = None) -> Kind:
    """Integers from ``least`` to ``most``, or without end, and those of ``also``."""

    def convert(value: Any) -> int | None:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        fits = is_integer and value >= least and (most is None or value <= most)
        return value if fits or (is_integer and value in also) else None

    words = f"of at least {least}" if most is None else f"from {least} to {most}"
    others = "".join(f" or {value}" for value in also)
    return Kind(f"an integer {words}{others}", convert, {"type": int, "metavar": "N"})


def number(least: float = 0.0, most: float = math.inf, *, above: bool = False, below: bool = False) -> Kind:
    """Finite numbers in [least, most], without the ends where ``above`` or ``below`` says so."""

    def convert(value: Any) -> float | None:
        found = as_number(value)
        if found is None:
            return None
        low = found > least if above else found >= least
        high = found < most if below else found <= most
        return found if low and high else None

    words = f"above {least:g}" if above else f"of at least {least:g}"
    if most != math.inf:
        words += f" and below {most:g}" if below else f" and at most {most:g}"
    return Kind(f"a number {words}", convert, {"type": float, "metavar": "X"})


def as_number(value: Any) -> float | None:
    """A number as float; None for anything else, infinity and integers beyond the range of floats included."""
    try:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return None
    return float(value) if is_number else None


def choice(*values: str) -> Kind:
    """One of some words."""

    def convert(value: Any) -> str | None:
        return value if isinstance(value, str) and value in values else None

    return Kind("one of " + ", ".join(values), convert, {"metavar": "|".join(values)})


def as_text(value: Any) -> str | None:
    """A text that can be a name or a path: not empty, and no NUL in it."""
    return value if isinstance(value, str) and value.strip() and "\0" not in value else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _names(value: Any) -> tuple[str, ...] | None:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return tuple(value) if is_list and all(as_text(item) for item in value) else None


TEXT = Kind("a text", as_text, {"metavar": "TEXT"})
FLAG = Kind("true or false", _flag, {"type": boolean, "nargs": "?", "const": True, "metavar": "True|False"})
NAMES = Kind("a list of texts", _names, {"nargs": "*", "metavar": "NAME"})
