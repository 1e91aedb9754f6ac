"""The session for a GPU with Paddle, run on the CPU as far as that goes."""

from __future__ import annotations

import re
import subprocess

from benchmarks import gpu_session
from tests.benchmarks.programs import ROOT, tables
from tests.forked import run_forked


def test_the_published_widths_are_measured():
    small = "--device cpu --shrink 16 --layers 1 --prompts 9 --contexts 20 --new-tokens 3 --measure int8"
    done = run_forked([str(ROOT / "benchmarks" / "gpu_session.py"), *small.split()], ROOT)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert re.search(r"1 layers; a device copy reaches \d+ GB/s", printed)
    (rows,) = tables(printed)
    assert [row["prompt"] for row in rows] == ["9", "20"]
    assert rows[0]["tokens/s"] == "" and float(rows[1]["tokens/s"]) > 0
    assert all(float(row["first token ms"]) > 0 for row in rows)


def test_a_step_that_fails_or_takes_too_long_does_not_stop_the_others(monkeypatch, tmp_path):
    steps = [
        gpu_session.Step("good", ["sh", "-c", "echo '| a |'; echo '| - |'"], 60),
        gpu_session.Step("bad", ["sh", "-c", "echo trouble; exit 3"], 60),
        gpu_session.Step("slow", ["sleep", "60"], 1),
    ]
    monkeypatch.setattr(gpu_session, "steps", lambda dry: steps)
    output = tmp_path / "file.md"
    assert gpu_session.main(["--output", str(output)]) == 1
    text = output.read_text()
    assert "## good: ok" in text and "## bad: FAILED with status 3" in text and "## slow: STOPPED after 1 s" in text
    assert "```\ntrouble\n```" in text


def test_every_command_of_the_session_exists():
    for dry in (True, False):
        for step in gpu_session.steps(dry):
            for argument in step.command:
                assert not argument.startswith("tests/") or (gpu_session.ROOT / argument).is_file()
    done = subprocess.run([*gpu_session.steps(True)[0].command, "--help"], capture_output=True, cwd=gpu_session.ROOT)
    assert done.returncode == 0
