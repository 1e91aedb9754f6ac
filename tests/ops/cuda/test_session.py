"""The session on a machine with a GPU: what it does when a step fails, and that its commands exist."""

from __future__ import annotations

import subprocess
import sys

from external_ops.harness import session
from external_ops.harness.session import Step


def run(monkeypatch, tmp_path, steps: list[Step]) -> tuple[int, str]:
    monkeypatch.setattr(session, "device_steps", lambda: steps)
    monkeypatch.setattr(session, "machine", lambda: "a machine")
    monkeypatch.setattr("sys.argv", ["session", "--output", str(tmp_path / "file.md")])
    return session.main(), (tmp_path / "file.md").read_text()


def test_a_step_that_fails_or_misses_a_tool_does_not_stop_the_others(monkeypatch, tmp_path):
    status, text = run(monkeypatch, tmp_path, [
        Step("bad", ["sh", "-c", "echo trouble; exit 3"], 60),
        Step("slow", ["sleep", "60"], 1),
        Step("missing", ["no-such-tool"], 60, "no-such-tool"),
        Step("good", ["sh", "-c", "printf 'x\\n| a |\\n| - |\\n'; echo $SAID"], 60, "sh", (("SAID", "so"),)),
    ])  # fmt: skip
    assert status == 1
    assert "## bad: FAILED with status 3" in text and "```\ntrouble\n```" in text
    assert "## slow: STOPPED after 1 s" in text
    assert "## missing: left out: no-such-tool is not installed" in text
    assert "## good: ok" in text and "\nx\n| a |\n| - |\nso\n" in text


def test_a_tool_that_is_missing_is_no_failure(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, [Step("missing", ["no-such-tool"], 60, "no-such-tool")])[0] == 0


def test_only_the_end_of_a_long_output_is_kept():
    _, printed = session.run(Step("long", [sys.executable, "-c", "for i in range(9999): print(i)"], 60))
    assert printed.splitlines() == [str(i) for i in range(9999 - session.MOST_LINES, 9999)]


def test_the_modules_of_the_steps_exist():
    modules = {
        step.command[list(step.command).index("-m") + 1]
        for step in [*session.device_steps(), *session.dry_steps()]
        if "-m" in step.command
    }
    found = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
    assert subprocess.run([sys.executable, "-c", found, *modules], cwd=session.ROOT).returncode == 0
