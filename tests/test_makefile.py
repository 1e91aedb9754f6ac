"""``make predict`` says which step of how many is running, and shows the output of one that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Stands for the interpreter that makes the virtual environment, and for the one in it.
PYTHON = f"""#!/bin/sh
case "$*" in
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
*"pip install"*external_ops*) echo "compiling"; [ ! -e no-space ] || {{ echo "no space left"; exit 3; }};;
*"pip install"*) echo "Collecting paddle";;
*) exec "{sys.executable}" "$@";;
esac
"""


@pytest.fixture
def make(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.py", "constraints.txt"):
        (tmp_path / name).touch()
    program = tmp_path / "examples" / "qwen_vl" / "run_predict.py"
    program.parent.mkdir(parents=True)
    program.write_text("print('response: a bus')")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = ["make", *arguments, f"PYTHON={tmp_path / 'python'}", "CXX=sh"]
        # These tests may themselves run under make, whose options and level must not reach this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")

    return run


def test_each_step_is_told_with_its_number(make):
    done = make("predict")
    assert done.returncode == 0, done.stderr
    *steps, response = done.stdout.splitlines()
    assert [step.split(":")[0] for step in steps] == ["Step 1 of 4", "Step 2 of 4", "Step 3 of 4"]
    assert done.stderr == "Step 4 of 4: asking the model\n" and response == "response: a bus"
    assert make("predict").stdout == "response: a bus\n", "what is done is not done again"


def test_the_output_of_a_step_that_fails_is_shown(make, tmp_path):
    (tmp_path / "no-space").touch()
    done = make("predict")
    assert done.returncode != 0
    assert "compiling\nno space left\n" in done.stderr and "Collecting paddle" not in done.stdout
    (tmp_path / "no-space").unlink()
    assert make("predict").stdout.splitlines()[0].startswith("Step 3 of 4"), "it goes on where it failed"


def test_the_browser_is_installed_where_that_can_be(make, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "mktemp", "rm", "tail"):
        (programs / name).symlink_to(shutil.which(name))
    for name, line in {"id": "echo 1000", "apt-get": 'echo "$@" >> installed'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    done = make("browser", f"PATH={programs}")
    assert done.returncode == 0 and "There is no chromium" in done.stderr and not (tmp_path / "installed").exists()
    (programs / "id").write_text("#!/bin/sh\necho 0\n")
    done = make("browser", f"PATH={programs}")
    assert done.returncode == 0 and done.stdout == "Installing chromium and chromium-driver\n"
    assert (tmp_path / "installed").read_text().splitlines()[1].endswith("chromium chromium-driver")
    for name in ("chromium", "chromedriver"):
        (programs / name).symlink_to(shutil.which("true"))
    assert make("browser", f"PATH={programs}").stdout == ""


def test_other_targets_have_no_numbers(make):
    assert make("check-install").stdout.startswith("making a virtual environment in .venv\n")
