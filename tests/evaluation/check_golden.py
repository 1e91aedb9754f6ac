"""Compares the metrics with the numbers of golden files.

    python tests/evaluation/check_golden.py DIR

Runs every JSON file of a folder whose name has one of the known kinds in it, and prints for each that it agrees, or
what differs. The status is 1 if anything differs, 2 for a file of an unknown kind or without the records of its kind.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
if str(_CHECKOUT) not in sys.path:
    sys.path.insert(0, str(_CHECKOUT))

from paddlemix.evaluation.metrics.caption_tokens import has_java  # noqa: E402
from tests.evaluation.golden_kinds import KINDS, NEEDS_JAVA  # noqa: E402
from tests.evaluation.golden_prompts import UnknownKindError  # noqa: E402

SHOWN = 5


def differences(expected: Any, found: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Where two values differ; numbers may by ``tolerance``, and True is 1."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys(), key=str):
            if key not in found:
                yield f"{where}.{key}: expected {expected[key]!r:.80}, got nothing"
            elif key not in expected:
                yield f"{where}.{key}: expected nothing, got {found[key]!r:.80}"
            else:
                yield from differences(expected[key], found[key], tolerance, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, (list, tuple)):
        if len(expected) != len(found):
            yield f"{where}: expected {len(expected)} values, got {len(found)}"
        for number, (one, other) in enumerate(zip(expected, found)):
            yield from differences(one, other, tolerance, f"{where}[{number}]")
    elif isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        if not abs(expected - found) <= tolerance and not (math.isnan(expected) and math.isnan(found)):
            yield f"{where}: expected {expected!r}, got {found!r}"
    elif expected != found:
        yield f"{where}: expected {expected!r:.80}, got {found!r:.80}"


def kind_of(name: str) -> str:
    """The kind of a file: the longest one that its name has as words, so that ``anls_2.json`` may stand beside.

    Raises:
        UnknownKindError: there is none.
    """
    kinds = [kind for kind in KINDS if re.search(rf"(?:^|[-._]){kind}(?:$|[-._0-9])", name)]
    if not kinds:
        raise UnknownKindError(f"no kind of this name, known are: {', '.join(sorted(KINDS))}")
    return max(kinds, key=len)


def check_file(path: Path) -> list[str]:
    """Where a golden file and the metrics differ.

    Raises:
        UnknownKindError: of no kind, no JSON, or without what its kind has.
    """
    compute, tolerance = KINDS[kind_of(path.stem)]
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
        found = compute(golden)
        return [line for key, value in found.items() for line in differences(golden[key], value, tolerance, key)]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UnknownKindError(f"does not have the records of its kind: {type(error).__name__}: {error}") from error


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python tests/evaluation/check_golden.py DIR", file=sys.stderr)
        return 2
    paths = sorted(Path(arguments[0]).glob("*.json"))
    if not paths:
        print(f"{arguments[0]}: no JSON files", file=sys.stderr)
        return 2
    status = 0
    for path in paths:
        try:
            kind, found = kind_of(path.stem), check_file(path)
        except UnknownKindError as error:
            print(f"{path.name}: not checked: {error}")
            status = 2
            continue
        is_approximate = kind in NEEDS_JAVA and not has_java()
        notes = " (no Java: approximate tokens, no METEOR)" if is_approximate else ""
        print(f"{path.name}: {f'{len(found)} differences' if found else 'agrees'}{notes}")
        for difference in found[:SHOWN]:
            print(f"    {difference}")
        if len(found) > SHOWN:
            print(f"    and {len(found) - SHOWN} more")
        status = max(status, int(bool(found)))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
