"""Checks of arguments that many places make."""

from __future__ import annotations

import os

from .schema import Kind, check_kind, integer

_BOOLEAN = Kind("True or False", lambda value: isinstance(value, bool))
_TEXT_OR_NONE = Kind("a text or None", lambda value: value is None or isinstance(value, str))
_PATH = Kind("a path", lambda value: isinstance(value, (str, os.PathLike)))


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Raise ConfigurationError unless ``value`` is an int (and no bool) of at least ``least``."""
    check_kind(name, value, integer(least))


def check_boolean(name: str, value: object) -> None:
    """Raise ConfigurationError unless ``value`` is a bool: the text ``"False"`` would count as true."""
    check_kind(name, value, _BOOLEAN)


def check_text_or_none(name: str, value: object) -> None:
    """Raise ConfigurationError unless ``value`` is a str or None."""
    check_kind(name, value, _TEXT_OR_NONE)


def check_path(name: str, value: object) -> None:
    """Raise ConfigurationError unless ``value`` is a str or PathLike."""
    check_kind(name, value, _PATH)
