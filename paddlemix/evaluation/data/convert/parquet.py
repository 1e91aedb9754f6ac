"""Rows of the public mirrors: parquet files, read in small batches, as their images are in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import EvaluationError
from ....utils.dependencies import require
from ....utils.display import one_line

_BATCH = 64


def parquet_files(source: Path, names: Sequence[str]) -> list[Path]:
    """The files of a split below a directory, by the beginning of their names; none where there are no parquet files.

    Raises:
        EvaluationError: there are parquet files, but none of that split.
    """
    found = sorted(source.rglob("*.parquet")) if source.is_dir() else []
    begins = re.compile(rf"(?:{'|'.join(map(re.escape, names))})(?![A-Za-z0-9])")
    chosen = [path for path in found if begins.match(path.name) or begins.fullmatch(path.parent.name)]
    if found and not chosen:
        raise EvaluationError(
            f"{source}: has parquet files such as {found[0].name}, expected some that begin with {' or '.join(names)}"
        )
    return chosen


def whole(row: Mapping[str, Any], name: str, where: str) -> int:
    """A whole number, which some mirrors write as text.

    Raises:
        EvaluationError: it is none.
    """
    try:
        return int(row[name])
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{where}: {name}: got {row[name]!r:.40}, expected a whole number") from error


def read_rows(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of parquet files: where each is, and its columns that are asked for.

    A column ``"a?"`` may be missing; it is then not in the rows.

    Raises:
        EvaluationError: a file is damaged or has no such columns.
    """
    arrow = require("pyarrow", "reading parquet files")
    parquet = require("pyarrow.parquet", "reading parquet files")
    for path in paths:
        try:
            file = parquet.ParquetFile(path)
            there = set(file.schema_arrow.names)
            missing = [name for name in columns if not name.endswith("?") and name not in there]
            if missing:
                raise EvaluationError(
                    f"{path}: has no column {missing[0]!r}, only {', '.join(sorted(there))}; expected the mirror that "
                    "the documentation names"
                )
            wanted = [name.rstrip("?") for name in columns if name.rstrip("?") in there]
            number = 0
            for batch in file.iter_batches(_BATCH, columns=wanted):
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
        except (OSError, arrow.ArrowException) as error:
            raise EvaluationError(f"{path} cannot be read as parquet: {one_line(error)}") from error
