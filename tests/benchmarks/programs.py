"""Runs the measuring programs small, in forks of this process, beside made-up peers, and reads what they print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.forked import run_forked

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--shrink", "16", "--threads", "1")
ONE_LAYER = ("--lm-layers", "1", "--vit-layers", "1")
PEER = """
import json, sys
print({description!r}, flush=True)
for _ in sys.stdin:
    print(json.dumps({seconds!r}), flush=True)
"""


def write_peer(folder: Path, description: str, seconds: dict[str, list[float]]) -> str:
    """The command of a peer that calls itself so and reports the same seconds in every round."""
    script = folder / f"{description} peer.py"
    script.write_text(PEER.format(description=description, seconds=seconds))
    return shlex.join([sys.executable, str(script)])


def run(script: str, *arguments: str) -> str:
    """What a program of ``benchmarks/`` prints."""
    done = run_forked([str(ROOT / "benchmarks" / script), *SMALL, *arguments], ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text; each is its rows, by the names of the columns."""
    found, inside = [], False
    for line in text.splitlines():
        if line.startswith("|") and not inside:
            found.append([])
        inside = line.startswith("|")
        if inside:
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [[dict(zip(header, row)) for row in rows] for header, _, *rows in found]


def by(column: str, rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """The rows of a table by what stands in one column."""
    return {row[column]: row for row in rows}
