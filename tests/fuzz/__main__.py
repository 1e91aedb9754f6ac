"""The property tests of this folder, many more cases than in ``make test``, and a Markdown table of what came of them.

    python -m tests.fuzz --factor 20

Each file runs in a process of its own, so that one which crashes is seen and counted. The exit status is 1 if any case
crashed, hung or ended with an undocumented exception.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
#: of one file's tests: no case takes longer than checking.WALL_SECONDS, but there are many
SECONDS_PER_FACTOR = 600


class Finished(NamedTuple):
    """A file whose tests have run: pytest's status (minus the signal that ended it), what was counted, seconds."""

    name: str
    status: int
    counts: list[dict]
    seconds: float


class Row(NamedTuple):
    kind: str
    cases: int
    refused: int
    crashes: int
    hangs: int
    undocumented: int
    peak: int


def run_file(path: Path, factor: int) -> Finished:
    """Run one file's tests; where one fails, its report is shown."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts")
        settings = {"PADDLEMIX_FUZZ_FACTOR": str(factor), "PADDLEMIX_FUZZ_COUNTS": str(counts)}
        command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", "-p", "no:xdist", str(path)]
        try:
            done = subprocess.run(
                command, cwd=FOLDER.parents[1], env={**os.environ, **settings}, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS_PER_FACTOR * factor,
            )  # fmt: skip
            status, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            status, output = 124, str(error)
        lines = counts.read_text(encoding="utf-8").splitlines() if counts.is_file() else []
    if status:
        print(output, file=sys.stderr)
    seconds = time.monotonic() - begun
    outcome = "ok" if not status else f"failed, status {status}"
    print(f"{path.name}: {outcome}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return Finished(path.name, status, [json.loads(line) for line in lines], seconds)


def summarize(finished: Iterable[Finished]) -> list[Row]:
    """One row for each kind, in order of appearance; what ended a file's process is a row of its own."""
    rows: dict[str, Row] = {}
    for file in finished:
        for line in file.counts:
            _add(rows, _row(line))
        if file.status < 0:
            _add(rows, Row(f"{file.name}: signal {-file.status}", 1, 0, 1, 0, 0, 0))
        elif file.status == 124:
            _add(rows, Row(f"{file.name}: did not end", 1, 0, 0, 1, 0, 0))
        elif file.status and not any(line["kind"] == "failed" for line in file.counts):
            _add(rows, Row(f"{file.name}: a test failed", 1, 0, 0, 0, 1, 0))
    return list(rows.values())


def _row(line: Mapping[str, object]) -> Row:
    return Row(line["kind"], line["cases"], line["refused"], 0, line["hang"], line["undocumented"], line["peak"])


def _add(rows: dict[str, Row], new: Row) -> None:
    old = rows.get(new.kind, new._replace(cases=0, refused=0, crashes=0, hangs=0, undocumented=0))
    sums = [before + after for before, after in zip(old[1:-1], new[1:-1])]
    rows[new.kind] = Row(new.kind, *sums, max(old.peak, new.peak))


def table(rows: Sequence[Row]) -> str:
    """The rows and their sum, as Markdown."""
    total = Row("**all**", *(sum(column) for column in list(zip(*rows))[1:-1]), max(row.peak for row in rows))
    lines = [
        "| Kind of input | Cases | Documented errors | Crashes | Hangs | Undocumented exceptions | Peak memory (MiB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in [*sorted(rows), total]:
        numbers = [f"{number:,}" for number in (*row[1:-1], -(-row.peak >> 20))]
        lines.append("| " + " | ".join([row.kind, *numbers]) + " |")
    return "\n".join(lines)


def machine() -> str:
    """The day and what it ran on, in one line."""
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{datetime.date.today()}, {processor}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Property tests with many cases.")
    parser.add_argument("--factor", type=int, default=20, help="how many times the cases of make test (default: 20)")
    parser.add_argument("--jobs", type=int, default=2, help="files at a time (default: 2)")
    parser.add_argument("files", nargs="*", type=Path, help="files of tests (default: all of tests/fuzz)")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    files = options.files or sorted(FOLDER.glob("test_*.py"))
    with ThreadPoolExecutor(options.jobs) as pool:
        finished = list(pool.map(lambda path: run_file(path, options.factor), files))
    print(f"Factor {options.factor}, {time.monotonic() - begun:.0f} s; {machine()}\n")
    print(table(summarize(finished)))
    return int(any(file.status for file in finished))


if __name__ == "__main__":
    sys.exit(main())
