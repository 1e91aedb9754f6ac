"""Command-line arguments made from the descriptions of options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..utils.arguments import boolean
from ..utils.option_fields import Option


def add_options(
    parser: argparse.ArgumentParser, options: Mapping[str, Option], titles: Mapping[str, str | None]
) -> None:
    """Add options to a parser, group by group.

    Args:
        parser: gets one argument group for each title.
        options: as ``described_options`` gives them; those of other groups are left out.
        titles: group -> its description, or ``None``, in order.
    """
    for title, description in titles.items():
        group = parser.add_argument_group(title, description)
        for item in options.values():
            if item.group == title and item.command_line_name:
                _add(group, item)


def _add(group: argparse._ArgumentGroup, item: Option) -> None:
    text = item.text.replace("%", "%%") + (" (may be repeated)" if item.repeated else "")
    keywords: dict[str, Any] = {"help": text, "default": item.initial, "dest": item.name}
    if item.choices:
        keywords["choices"] = item.choices
    else:
        keywords["metavar"] = item.value_name
    if item.repeated:
        keywords["action"] = "append"
    if item.type is bool:
        keywords.update(type=boolean, nargs="?", const=True)
    elif item.type is not str:
        keywords["type"] = item.type
    group.add_argument(item.command_line_name, **keywords)


def given_options(arguments: argparse.Namespace, options: Mapping[str, Option]) -> dict[str, Any]:
    """The options that a command line has: those that are not ``None``."""
    values = {name: getattr(arguments, name, None) for name in options}
    return {name: value for name, value in values.items() if value is not None}
