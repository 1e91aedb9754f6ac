"""MMBench: rows of the published table as records of the original's converted files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import EvaluationError
from ..metrics.mmbench import LETTERS
from ..prompts import MISSING_HINT


def convert_row(row: Mapping[str, Any], image_directory: str) -> dict[str, Any]:
    """A row of the table as a record.

    Args:
        row: ``index``, ``hint``, ``question``, options under their letters, ``answer`` (a letter) where it is public;
            None where a field is empty.
        image_directory: as the record names it.

    Raises:
        EvaluationError: there is no question, or the answer is the letter of no option.
    """
    index = int(row["index"])
    if not row.get("question"):
        raise EvaluationError(f"index {index}: question: there is none")
    record: dict[str, Any] = {
        "index": index,
        "image": f"{image_directory}/{index}.jpg",
        "hint": row.get("hint") or MISSING_HINT,
        "question": row["question"],
        "choices": [row[letter] for letter in LETTERS[:5] if row.get(letter) is not None],
    }
    if row.get("answer"):
        number = LETTERS.find(str(row["answer"]))
        if not 0 <= number < len(record["choices"]):
            raise EvaluationError(f"index {index}: answer: got {row['answer']!r:.40}, expected the letter of an option")
        record["answer"] = number
    return record
