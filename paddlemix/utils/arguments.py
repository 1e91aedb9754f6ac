"""Command-line values that several packages parse."""

from __future__ import annotations

import argparse


def boolean(text: str) -> bool:
    """Parse a command-line boolean.

    Args:
        text: ``True``, ``False``, or ``yes``, ``no``, ``1``, ``0``, in any case.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected True or False")
    return values[text.lower()]


def positive(text: str) -> int:
    """An integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: another text.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of at least 1")
    return int(text)
