"""Tables of tab-separated values, as MMBench and TouchStone come."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import EvaluationError
from ...utils.display import one_line
from ...utils.files import reason
from .files import require_file


def read_table(path: Path, *, leave_out: Sequence[str] = ()) -> Iterator[dict[str, str | None]]:
    """The rows of a table with a header, column -> text, None where a field is empty.

    Every field is text: options that read "None", "N/A", "007" or "1.50" stay what they are.

    Raises:
        EvaluationError: the file is missing, damaged, or a row has too many or too few fields.
    """
    require_file(path)
    # An image is one field of some megabytes; the limit is the module's, for all readers.
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t")
            header = next(rows, [])
            if "index" not in header:
                raise EvaluationError(f"{path}: got columns {', '.join(header)[:80]!r}, expected one named index")
            for row in rows:
                if len(row) != len(header):
                    raise EvaluationError(f"{path}:{rows.line_num}: got {len(row)} fields, expected {len(header)}")
                index = row[header.index("index")]
                if not index.isdecimal():
                    raise EvaluationError(f"{path}:{rows.line_num}: index: got {index!r:.40}, expected a whole number")
                yield {name: field or None for name, field in zip(header, row) if name not in leave_out}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise EvaluationError(f"{path} cannot be read: {why}") from error
