"""Tables of options in the documents, generated from the dataclasses that describe them.

    python -m paddlemix.cli.option_tables --check docs/options.md      exit status 1 where a table is stale
    python -m paddlemix.cli.option_tables --write docs/options.md

A table stands between ``<!-- options: GROUP -->`` and ``<!-- end of options -->``, GROUP being one of model,
conversation, images and generation.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..options import ALL_OPTIONS
from . import common as cli

_TABLE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def table(group: str) -> str:
    """The options of a group as a Markdown table."""
    rows = ["| command line | Python, Appflow | what it says |", "|---|---|---|"]
    for item in ALL_OPTIONS.values():
        if item.group == group:
            values = item.value_name.replace("|", "\\|")
            typed = f"`{item.command_line_name} {values}`" if item.command_line_name else ""
            rows.append(f"| {typed} | `{item.name}` | {_escaped(item.text)} |")
    return "\n".join(rows) + "\n"


def with_tables(text: str) -> str:
    """A document with its tables of options made anew."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="documents with tables of options")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="make the tables anew")
    mode.add_argument("--check", action="store_true", help="name the files whose tables are stale")
    options = parser.parse_args(arguments)
    stale = 0
    for name in options.files:
        text = Path(name).read_text(encoding="utf-8")
        if with_tables(text) == text:
            continue
        stale += 1
        if options.write:
            Path(name).write_text(with_tables(text), encoding="utf-8")
        cli.output(f"{name}: {'written' if options.write else 'stale; --write makes its tables anew'}")
    return 1 if stale and options.check else 0


def _escaped(text: str) -> str:
    """A text as a cell: tags and bars are shown as they are."""
    return re.sub(r"<[^>]+>", lambda found: f"`{found[0]}`", text).replace("|", "\\|")


if __name__ == "__main__":
    cli.run(main)
