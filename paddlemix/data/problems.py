"""Problems of records with their source locations, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..utils.display import escape_controls, shorten

_WIDTHS = (60, 40, 160, 80)
_FIELD_LIMIT, _CAME_LIMIT = 80, 300


@dataclass(frozen=True, order=True)
class RecordLocation:
    """The source location of a record.

    Attributes:
        path: of the file, as it was given.
        line: where the record begins, from 1.
    """

    path: str
    line: int

    def __str__(self) -> str:
        """``FILE:LINE``."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """A problem of one record.

    Attributes:
        location: of the record, or of the line that is not JSON.
        field: such as ``conversations[2].value``; "" for the record as a whole.
        came: what is there.
        expected: what should be.
    """

    location: RecordLocation
    field: str
    came: str
    expected: str

    def __str__(self) -> str:
        """One line, without control characters."""
        where = f"{self.location}: {shorten(self.field, _FIELD_LIMIT)}" if self.field else str(self.location)
        came, expected = (shorten(text, _CAME_LIMIT) for text in (self.came, self.expected))
        return escape_controls(f"{where}: got {came}, expected {expected}")


def problem_table(problems: Sequence[Problem], limit: int | None = None) -> str:
    """A table of problems, one per line, with long cells shortened.

    Args:
        problems: to show.
        limit: maximum number of lines; a last line counts the others.
    """
    shown = problems if limit is None else problems[:limit]
    rows: list[tuple[str, ...]] = [("where", "field", "got", "expected")]
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
    """The end of a path, which distinguishes files."""
    return text if len(text) <= width else "…" + text[1 - width :]
