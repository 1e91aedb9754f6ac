"""Checks of arguments that many places make."""

from __future__ import annotations

from .schema import check_kind, integer


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Raise ConfigurationError unless ``value`` is an int (and no bool) of at least ``least``."""
    check_kind(name, value, integer(least))
