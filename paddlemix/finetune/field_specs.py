"""Field specs of configuration dataclasses: validation, command-line arguments and help text from one declaration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..utils.arguments import boolean
from ..utils.schema import shown


@dataclass(frozen=True)
class FieldSpec:
    """The values that a field takes.

    Attributes:
        expected: the accepted values in words, for error messages, such as "an integer of at least 1".
        parse: JSON value -> field value; None for a value that is not accepted.
        argument: keywords for ``ArgumentParser.add_argument``.
        choices: the accepted values where they are a few words.
    """

    expected: str
    parse: Callable[[Any], Any]
    argument: Mapping[str, Any]
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> Any:
        """Parse a value.

        Args:
            name: of the field, for the message.
            value: as it stands in JSON.

        Raises:
            ConfigurationError: the value is not accepted.
        """
        parsed = self.parse(value)
        if parsed is None:
            raise ConfigurationError(f"{name}: got {shown(value)}, expected {self.expected}")
        return parsed


def config_field(spec: FieldSpec, help_text: str, **default: Any) -> Any:
    """A dataclass field with its spec and help text in the metadata.

    Args:
        spec: the values that it takes.
        help_text: what it does, in the words of ``--help`` and the documentation.
        default: ``default=...``; with ``default=None`` the field also takes None.
    """
    optional = default.get("default", ...) is None
    return field(**default, metadata={"spec": spec, "help": help_text, "optional": optional})


def integer(minimum: int = 1, *also: int, maximum: int | None = None) -> FieldSpec:
    """Integers from ``minimum`` to ``maximum`` (unbounded by default), and the values ``also``."""

    def parse(value: Any) -> int | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        in_range = value >= minimum and (maximum is None or value <= maximum)
        return value if in_range or value in also else None

    words = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    others = "".join(f" or {value}" for value in also)
    return FieldSpec(f"an integer {words}{others}", parse, {"type": int, "metavar": "N"})


def number(
    minimum: float = 0.0, maximum: float = math.inf, *, above_minimum: bool = False, below_maximum: bool = False
) -> FieldSpec:
    """Finite numbers in [minimum, maximum]; the flags exclude an end."""

    def parse(value: Any) -> float | None:
        found = parse_number(value)
        if found is None:
            return None
        low = found > minimum if above_minimum else found >= minimum
        high = found < maximum if below_maximum else found <= maximum
        return found if low and high else None

    words = f"above {minimum:g}" if above_minimum else f"of at least {minimum:g}"
    if maximum != math.inf:
        words += f" and below {maximum:g}" if below_maximum else f" and at most {maximum:g}"
    return FieldSpec(f"a number {words}", parse, {"type": float, "metavar": "X"})


def choice(*values: str) -> FieldSpec:
    """One of a few words."""

    def parse(value: Any) -> str | None:
        return value if isinstance(value, str) and value in values else None

    return FieldSpec("one of " + ", ".join(values), parse, {"metavar": "|".join(values)}, values)


def parse_number(value: Any) -> float | None:
    """An int or float as float; None for anything else, NaN, infinity and integers that no float can hold included."""
    try:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return None
    return float(value) if is_number else None


def parse_str(value: Any) -> str | None:
    """A string that can be a name or a path: not blank and without NUL; None for anything else."""
    return value if isinstance(value, str) and value.strip() and "\0" not in value else None


def _parse_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _parse_str_list(value: Any) -> tuple[str, ...] | None:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return tuple(value) if is_list and all(parse_str(item) for item in value) else None


STRING = FieldSpec("a text", parse_str, {"metavar": "TEXT"})
BOOLEAN = FieldSpec(
    "true or false", _parse_bool, {"type": boolean, "nargs": "?", "const": True, "metavar": "True|False"}
)
STRING_LIST = FieldSpec("a list of texts", _parse_str_list, {"nargs": "*", "metavar": "NAME"})
