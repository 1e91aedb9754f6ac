"""What is wrong with data, and where: problems, and the table of them that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..utils.display import escape_controls, shorten

_WIDTHS = (60, 40, 160, 80)
_FIELD_LIMIT, _CAME_LIMIT = 80, 300


@dataclass(frozen=True, order=True)
class RecordLocation:
    """Where a record begins: the path as it was given, and the line, counted from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one record.

    Attributes:
        location: of the record; of the file's broken line where it is not JSON.
        field: which part of the record, such as ``conversations[2].value``; "" for the record as a whole.
        came, expected: what is there and what should be.
    """

    location: RecordLocation
    field: str
    came: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.location}: {shorten(self.field, _FIELD_LIMIT)}" if self.field else str(self.location)
        came, expected = (shorten(text, _CAME_LIMIT) for text in (self.came, self.expected))
        return escape_controls(f"{where}: got {came}, expected {expected}")


def problem_table(problems: Sequence[Problem], limit: int | None = None) -> str:
    """A table, one problem a line, long cells shortened; after ``limit`` of them only how many more there are."""
    shown = problems if limit is None else problems[:limit]
    rows = [("where", "field", "got", "expected")]
    rows += [(_end(str(p.location), _WIDTHS[0]), p.field, p.came, p.expected) for p in shown]
    rows = [tuple(_cell(text, width) for text, width in zip(row, _WIDTHS)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_WIDTHS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    if len(shown) < len(problems):
        lines.append(f"… and {len(problems) - len(shown)} more")
    return "\n".join(lines)


def _cell(text: str, width: int) -> str:
    text = escape_controls(" ".join(shorten(text, 4 * width).split()))
    return text if len(text) <= width else text[: width - 1] + "…"


def _end(text: str, width: int) -> str:
    """The end of a path is what tells files apart."""
    return text if len(text) <= width else "…" + text[1 - width :]
