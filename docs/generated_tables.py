"""Tables of a page that a program writes: what stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def with_tables(text: str, tables: Mapping[str, str], page: Path) -> str:
    """A page with its tables anew.

    Args:
        text: of the page.
        tables: by name.
        page: for the message of an error.

    Raises:
        SystemExit: the page does not have the place of a table exactly once.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text, count = pattern.subn(lambda _, new=begin + table + end: new, text)
        if count != 1:
            raise SystemExit(f"{page}: expected one {begin.strip()} … {end.strip()}, found {count}")
    return text
