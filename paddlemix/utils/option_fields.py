"""Options as dataclass fields: what the command line, Appflow and the documents say about each is said once.

    @dataclass(frozen=True)
    class GenerationOptions:
        top_p: float = option(1.0, float, "nucleus sampling probability", group="generation")

:func:`described_options` reads the descriptions back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Option:
    """Description of one option.

    Attributes:
        name: the name in Python.
        type: ``bool``, ``int``, ``float``, ``str``, or a function that reads the value from a text.
        help: one line about it.
        group: heading under which it is listed.
        choices: the values it may have; empty where there are others.
        metavar: what stands for the value in a usage line; by default the type's name.
        flag: the name on the command line where it differs; empty: not offered there.
        repeated: a list of values, one for each time it is given.
        default: what ``None`` stands for, in words; empty where the help says it.
        initial: the value on the command line where it is not given, if that is not ``None``.
    """

    name: str
    type: Callable[[str], Any]
    help: str
    group: str
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flag: str | None = None
    repeated: bool = False
    default: str = ""
    initial: Any = None

    @property
    def command_line_name(self) -> str:
        """The option as it is typed, ``--name``; empty where the command line does not offer it."""
        flag = self.name if self.flag is None else self.flag
        return f"--{flag}" if flag else ""

    @property
    def value_name(self) -> str:
        """What stands for its value in usage lines and tables."""
        if self.choices:
            return "|".join(self.choices)
        if self.metavar is not None:
            return self.metavar
        return "True|False" if self.type is bool else getattr(self.type, "__name__", "value").upper()

    @property
    def text(self) -> str:
        """The help with the default."""
        return f"{self.help} (default: {self.default})" if self.default else self.help


def option(
    value: Any,
    type: Callable[[str], Any],
    help: str,
    *,
    group: str,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    flag: str | None = None,
    repeated: bool = False,
    default: str = "",
    initial: Any = None,
) -> Any:
    """A dataclass field with the default ``value`` and the description of :class:`Option`."""
    described = {
        "type": type, "help": help, "group": group, "choices": choices, "metavar": metavar, "flag": flag,
        "repeated": repeated, "default": default, "initial": initial,
    }  # fmt: skip
    return field(default=value, metadata={"option": described})


def described_options(*classes: Any) -> dict[str, Option]:
    """The described fields of dataclasses, by name, in their order."""
    return {
        item.name: Option(item.name, **item.metadata["option"])
        for cls in classes
        for item in fields(cls)
        if "option" in item.metadata
    }
