"""Command-line arguments for every field of the fine-tuning configuration.

Not ``HfArgumentParser``: it neither checks ranges nor suggests an option for a misspelled one, it reads a whole file or
a whole command line but not one over the other, and its import takes PaddleNLP's seconds, in ``--help`` too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from ..utils.display import quoted, readable_name
from .configuration import FinetuneConfig, spec_of, suggestion


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--name`` for every field of :class:`FinetuneConfig`; optional ones also take ``none``."""
    group = parser.add_argument_group("options, which override those of the config file")
    for item in fields(FinetuneConfig):
        keywords = dict(spec_of(item).argument)
        if item.metadata["optional"] and keywords.get("nargs") in (None, "?"):
            keywords["type"] = _or_none(keywords.get("type", str))
        text: str = item.metadata["help"].replace("%", "%%")
        if item.default is not MISSING and item.default is not None:
            shown = " ".join(item.default) if isinstance(item.default, tuple) else item.default
            text += f" (default: {shown if shown != '' else 'none'})"
        group.add_argument(f"--{item.name}", default=argparse.SUPPRESS, help=text, **keywords)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options given on a command line with :func:`add_options`: overrides for :meth:`FinetuneConfig.from_file`."""
    found = {item.name: getattr(arguments, item.name, MISSING) for item in fields(FinetuneConfig)}
    optional = {item.name for item in fields(FinetuneConfig) if item.metadata["optional"]}
    return {
        name: None if name in optional and value == ["none"] else value
        for name, value in found.items()
        if value is not MISSING
    }


def unknown_argument(argument: str) -> str:
    """The error message for an argument that a parser with :func:`add_options` does not know."""
    if not argument.startswith("--"):
        return f"{quoted(argument)}: unexpected on the command line; options begin with --"
    name = argument[2:].partition("=")[0]
    return f"--{readable_name(name)}: unknown option{suggestion(name, [item.name for item in fields(FinetuneConfig)])}"


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else convert(text)

    read.__name__ = convert.__name__  # what argparse calls the type in its messages
    return read
