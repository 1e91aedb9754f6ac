"""What the fields of configuration files and options may be, said as data: a type and a range for each name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from .display import shorten

_SHOWN = 80


@dataclass(frozen=True)
class Kind:
    """A set of values. ``expected`` names it in messages; ``accepts`` never raises, whatever it is given."""

    expected: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """A field with the value that it has where a file does not name it."""

    kind: Kind
    default: Any = None


def integer(least: int, most: int | None = None) -> Kind:
    """Integers of a range, both ends included; true and false are none."""
    expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"

    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value and not (most and value > most)

    return Kind(expected, accepts)


def number(least: float, most: float, *, above: bool = False, below: bool = False) -> Kind:
    """Finite numbers of a range, both ends included; without ``least`` where ``above``, without ``most`` where
    ``below``.
    """

    def accepts(value: Any) -> bool:
        # Comparing works for integers that no float can hold, and is false for NaN.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            return False
        return not (above and value == least) and not (below and value == most)

    return Kind(f"a number {'above' if above else 'from'} {least:g} to {'below ' if below else ''}{most:g}", accepts)


def one_of(*values: Any) -> Kind:
    """Some texts or other plain values."""
    named = ", ".join("null" if value is None else str(value) for value in values)
    return Kind(f"one of {named}", lambda value: any(type(value) is type(v) and value == v for v in values))


def list_of(kind: Kind, plural: str, least: int = 0) -> Kind:
    """Lists (or tuples) of one kind, of at least ``least`` entries; ``plural`` names the entries."""
    return Kind(
        f"a list of {plural}",
        lambda value: isinstance(value, (list, tuple)) and len(value) >= least and all(map(kind.accepts, value)),
    )


def either(*kinds: Kind) -> Kind:
    """Values of any of these kinds."""
    expected = " or ".join(kind.expected for kind in kinds)
    return Kind(expected, lambda value: any(kind.accepts(value) for kind in kinds))


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
SOME_TEXT = Kind("a text that is not empty", lambda value: isinstance(value, str) and value != "")
NULL = Kind("null", lambda value: value is None)


def check_kind(name: str, value: Any, kind: Kind) -> None:
    """Raise ConfigurationError, naming the field, unless the value is of the kind."""
    if not kind.accepts(value):
        raise ConfigurationError(f"{name}: expected {kind.expected}, got {shown(value)}")


def check_fields(schema: Mapping[str, Field], fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Those of ``fields`` that the schema has, checked, and the defaults of the rest, in the order of the schema.

    Raises:
        ConfigurationError: the first value that is not of its kind; ``prefix`` stands before its name.
    """
    values = {name: fields.get(name, field.default) for name, field in schema.items()}
    for name, value in values.items():
        check_kind(prefix + name, value, schema[name].kind)
    return values


def shown(value: Any, limit: int = _SHOWN) -> str:
    """A value for a message: as in Python, escaped and cut short, whatever it is."""
    try:
        return shorten(repr(value), limit)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes; lists without an end
        return f"a value of type {type(value).__name__}"
