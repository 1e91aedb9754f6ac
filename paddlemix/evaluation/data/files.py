"""Data files on disk: found below the data directory, read line by line, every fault with its file and line."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EvaluationError
from ...utils.files import read_json, read_json_lines
from ..records import ImageRef

MAX_DATA_BYTES = 8 << 30
MAX_PIXELS = 1 << 20
"""Of a side of an image: what boxes and sizes may say."""
PREFIX = "data/"
"""What paths in the original's files begin with; the data directory stands in its place."""


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector of cycles: millions of records have none, and looking for them doubles the time to read."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class Record:
    """One record of a data file; its methods return fields, checked.

    Attributes:
        values: the JSON object.
        where: file and line, or file and number.
    """

    values: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self._field(name)
        if not isinstance(value, str) or not value:
            raise self.error(name, "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A text or a list of texts."""
        value = self._field(name)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or not all(isinstance(text, str) for text in values):
            raise self.error(name, "a text or a list of texts")
        return tuple(values)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects."""
        value = self._field(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(name, "a list of objects")
        return value

    def size(self, name: str) -> float:
        """A width or height in pixels."""
        value = self._field(name)
        if not _is_number(value) or not 0 < value <= MAX_PIXELS:
            raise self.error(name, f"a number of pixels above 0, at most {MAX_PIXELS}")
        return value

    def index(self, name: str, below: int) -> int:
        """A whole number from 0, below a bound."""
        value = self._field(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
            raise self.error(name, f"a whole number from 0 to {below - 1}")
        return value

    def box(self, name: str) -> tuple[float, float, float, float]:
        """Corners x1, y1, x2, y2 with x1 < x2 and y1 < y2."""
        value = self._field(name)
        if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
            raise self.error(name, "four numbers x1, y1, x2, y2")
        x1, y1, x2, y2 = value
        if not (x1 < x2 and y1 < y2):
            raise self.error(name, "corners x1 < x2 and y1 < y2 in pixels, not width and height")
        return x1, y1, x2, y2

    def id(self, name: str) -> str:
        """A text or a whole number, as a text."""
        value = self._field(name)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
            raise self.error(name, "a text or a whole number")
        return str(value)

    def error(self, name: str, expected: str) -> EvaluationError:
        """The error for a field that is not as it must be."""
        return EvaluationError(f"{self.where}: {name}: got {self.values.get(name)!r:.80}, expected {expected}")

    def _field(self, name: str) -> Any:
        if name not in self.values:
            raise EvaluationError(f"{self.where}: {name}: there is none; expected it in every record")
        return self.values[name]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_PIXELS


def read_records(path: Path) -> list[Record]:
    """The records of a file of JSON lines, which are split at line feeds alone.

    Raises:
        EvaluationError: the file is missing, empty, damaged, or a line is no object.
    """
    records = []
    require_file(path)
    for number, value in read_json_lines(path, limit=MAX_DATA_BYTES, error=EvaluationError):
        where = f"{path}:{number}"
        if not isinstance(value, dict):
            raise EvaluationError(f"{where}: got {type(value).__name__}, expected a JSON object")
        records.append(Record(value, where))
    if not records:
        raise EvaluationError(f"{path}: the file is empty, expected a record a line")
    return records


def read_value(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        EvaluationError: the file is missing or damaged.
    """
    require_file(path)
    return read_json(path, limit=MAX_DATA_BYTES, error=EvaluationError)


def read_list(path: Path, key: str | None = None) -> list[Record]:
    """The objects of a list in a JSON file, under ``key`` where the file is an object.

    Raises:
        EvaluationError: as :func:`read_value`, and for a file of another form.
    """
    value = read_value(path)
    if key is not None:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        under = f" under {key!r}" if key else ""
        raise EvaluationError(f"{path}: expected a list of JSON objects{under}")
    return [Record(item, f"{path}, number {number}") for number, item in enumerate(value)]


def require_file(path: Path) -> None:
    """Raise EvaluationError where a file is not there."""
    if not path.is_file():
        raise EvaluationError(
            f"{path}: is missing; 'paddlemix evaluate data BENCHMARK --check' says what belongs there and its source"
        )


def image_ref(data_dir: Path, name: str) -> ImageRef:
    """The image of a name in a data file: below the data directory, unless it is absolute."""
    return ImageRef(os.path.join(data_dir, name.removeprefix(PREFIX)), name)


def unique(key: Callable[[Record], str], records: list[Record], what: str) -> list[str]:
    """The id of each record.

    Raises:
        EvaluationError: two have the same.
    """
    seen: dict[str, str] = {}
    ids = []
    for record in records:
        id_ = key(record)
        if id_ in seen:
            raise EvaluationError(f"{record.where}: {what} {id_!r} stands at {seen[id_]} already; expected each once")
        seen[id_] = record.where
        ids.append(id_)
    return ids


def numbered(ids: list[str]) -> list[str]:
    """Ids where those that repeat get their occurrence: ``a, b, a`` becomes ``a, b, a#2``."""
    seen: dict[str, int] = {}
    result = []
    for id_ in ids:
        seen[id_] = seen.get(id_, 0) + 1
        result.append(id_ if seen[id_] == 1 else f"{id_}#{seen[id_]}")
    return result
