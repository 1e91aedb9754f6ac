"""examples/check_install.py, run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import paddlemix

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "check_install.py"


def run(*arguments: str, isolated: bool = False) -> subprocess.CompletedProcess:
    flags = ["-S", "-E"] if isolated else []
    return subprocess.run([sys.executable, *flags, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_a_working_install_is_reported_with_versions_device_and_a_tiny_run():
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert paddlemix.__version__ in done.stdout
    assert "paddlenlp              3.0.0b4" in done.stdout
    assert "device of paddle       cpu" in done.stdout
    assert re.search(r"^operators  .*(fused kernels for cpu|plain Paddle: )", done.stdout, re.MULTILINE)
    assert "logits [1, 14, 512]" in done.stdout
    assert done.stdout.endswith("result: ready\n")


def test_an_interpreter_without_packages_gets_a_report_and_status_1():
    done = run(isolated=True)
    assert done.returncode == 1
    assert "problem: paddlemix is not installed" in done.stdout
    assert done.stderr == ""
