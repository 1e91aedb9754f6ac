"""The programs that make scenes' files report what is wrong in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ["vocabulary", "/dev/null/folder"],
        ["vocabulary"],
        ["build_assets", "--twemoji-folder", "/absent", "--fluent-folder", "/absent"],
        ["build_assets"],
    ],
)
def test_errors_are_one_line(arguments):
    program, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"examples.bundled_model.scenes.{program}", *rest],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
