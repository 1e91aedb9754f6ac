"""Checks of arguments that many places make."""

from __future__ import annotations

from .errors import ConfigurationError


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Raise ConfigurationError unless ``value`` is an int (and no bool) of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}: expected an integer of at least {least}, got {value!r}")
