"""What ``make fuzz`` makes of what its processes counted."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.__main__ import Finished, run_file, summarize, table

LINE = {"kind": "a", "cases": 5, "ok": 2, "refused": 3, "hang": 0, "undocumented": 0, "peak": 1 << 20}
FAILED = {"kind": "failed", "cases": 1, "ok": 0, "refused": 0, "hang": 0, "undocumented": 1, "peak": 0}


def test_files_are_summed_by_kind_and_their_ends_counted() -> None:
    finished = [
        Finished("x.py", 0, [LINE], 1.0),
        Finished("y.py", -11, [{**LINE, "peak": 3 << 20}], 1.0),
        Finished("z.py", 1, [FAILED], 1.0),
        Finished("v.py", 1, [], 1.0),
        Finished("w.py", 124, [], 1.0),
    ]
    assert table(summarize(finished)).splitlines()[2:] == [
        "| a | 10 | 6 | 0 | 0 | 0 | 3 |",
        "| failed | 1 | 0 | 0 | 0 | 1 | 0 |",
        "| v.py: a test failed | 1 | 0 | 0 | 0 | 1 | 0 |",
        "| w.py: did not end | 1 | 0 | 0 | 1 | 0 | 0 |",
        "| y.py: signal 11 | 1 | 0 | 1 | 0 | 0 | 0 |",
        "| **all** | 14 | 6 | 1 | 1 | 2 | 3 |",
    ]


def test_a_process_that_crashes_is_seen(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import os\ndef test_it():\n    os.kill(os.getpid(), 9)\n")
    assert run_file(tmp_path / "test_it.py", 1).status == -9
