"""MMBench: rows of the published table as records of the original's converted files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics.mmbench import LETTERS
from ..prompts import MISSING_HINT


def convert_row(row: Mapping[str, Any], image_directory: str) -> dict[str, Any]:
    """A row of the table as a record.

    Args:
        row: ``index``, ``hint``, ``question``, options under their letters, ``answer`` (a letter) where it is public;
            None where a field is empty.
        image_directory: as the record names it.
    """
    index = int(row["index"])
    record = {
        "index": index,
        "image": f"{image_directory}/{index}.jpg",
        "hint": row.get("hint") or MISSING_HINT,
        "question": row["question"],
        "choices": [row[letter] for letter in LETTERS[:5] if row.get(letter) is not None],
    }
    if row.get("answer"):
        record["answer"] = LETTERS.index(row["answer"])
    return record
