"""``log.csv``: one row per training log and one per evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from ...errors import ConfigurationError
from ...utils.files import read_bytes, write_text

MAX_LOG_BYTES = 1 << 30
TRAIN_COLUMNS = ("epoch", "loss", "learning_rate", "tokens", "tokens_per_second", "grad_norm")
EVAL_COLUMNS = ("eval_loss", "eval_iou_accuracy", "eval_exact_answers")
COLUMNS = ("step", *TRAIN_COLUMNS, *EVAL_COLUMNS)

Row = dict[str, Union[int, float]]
"""Column -> number; missing where it was not measured, except ``step``."""


class TrainingLog:
    """A CSV file with the columns :data:`COLUMNS`; empty cells were not measured.

    Args:
        path: of the file.

    Attributes:
        rows: those of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []

    def start(self, step: int) -> None:
        """Start the file, or continue it after ``step``, dropping later rows from before an interruption.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        self.rows = [row for row in read_log(self.path) if row["step"] <= step] if step else []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, _line(dict(zip(COLUMNS, COLUMNS))) + "".join(_line(row) for row in self.rows))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row with those of ``values`` that have a column.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        row: Row = {"step": step, **{name: values[name] for name in COLUMNS[1:] if values.get(name) is not None}}
        self.rows.append(row)
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_line(row))
        except OSError as error:
            raise _unwritable(self.path, error) from error


def read_log(path: Path) -> list[Row]:
    """Read a ``log.csv``; no rows if there is no file. Rows that a killed process left incomplete are skipped.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if not path.exists():
        return []
    text = read_bytes(path, limit=MAX_LOG_BYTES, error=ConfigurationError).decode("utf-8-sig", errors="replace")
    whole_lines = text[: text.rfind("\n") + 1]
    header, *lines = list(csv.reader(io.StringIO(whole_lines))) or [[]]
    rows = (_row(header, cells) for cells in lines if len(cells) == len(header))
    return [row for row in rows if row is not None]


def _row(header: list[str], cells: list[str]) -> Row | None:
    """The numbers of one line; None for an invalid one."""
    try:
        named = {name: cell for name, cell in zip(header, cells) if cell and name in COLUMNS}
        row: Row = {name: float(cell) for name, cell in named.items()}
        row.update({name: int(named[name]) for name in ("step", "tokens") if name in named})
    except ValueError:
        return None
    return row if "step" in row else None


def _line(row: Mapping[str, object]) -> str:
    return ",".join(_cell(row.get(name)) for name in COLUMNS) + "\n"


def _cell(value: object) -> str:
    """Seven digits: as many as float32 has."""
    return "" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be written: {error.strerror or error}; free space or change output_dir")
