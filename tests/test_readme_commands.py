"""Every shell command of the READMEs runs as it is printed, from a fresh checkout, on files that are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What cannot be run in a test, and why; a command is left out where it begins with one of these.
LEFT_OUT = {
    "paddlemix predict --model_name_or_path qwen-vl/qwen-vl-chat-7b": "downloads 19 GB",
}

# Options that make a program's work small. They follow those that are printed, so they count instead.
SHORTER = {
    "finetune": "--max_steps 2 --eval_samples 4",
    "examples.bundled_model.scenes.lesson": "--images 4",
}


def commands(name: str) -> list[str]:
    blocks = _BASH.findall((ROOT / name).read_text(encoding="utf-8"))
    return [line for line in "".join(blocks).replace("\\\n", " ").splitlines() if line.strip()]


def left_out(command: str) -> bool:
    return any(command.startswith(start) for start in LEFT_OUT)


def shortened(command: str) -> str:
    options = [options for program, options in SHORTER.items() if program in shlex.split(command)]
    return " ".join([command, *options])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that is a checkout, with a virtual environment as ``make predict`` leaves one."""
    folder = tmp_path / "paddlemix"
    folder.mkdir()
    made_by_programs = {"runs", "output", "build", "dist", ".venv", ".git"}
    for path in ROOT.iterdir():
        if path.name not in made_by_programs:
            (folder / path.name).symlink_to(path)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    for name, arguments in (("python", ""), ("paddlemix", "-m paddlemix")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    (programs.parent / ".paddle").write_text(f"paddlepaddle=={version('paddlepaddle')}\n")
    for stamp in (".created", ".installed-run", ".installed-dev", ".installed-ops"):
        (programs.parent / stamp).touch()
    return folder


@pytest.mark.slow
def test_every_command_runs_as_printed(checkout):
    environment = {**os.environ, "PADDLEMIX_HOME": str(checkout / "home"), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{checkout / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    ran = 0
    for command in commands("README.md"):
        if left_out(command):
            continue
        done = subprocess.run(
            ["bash", "-ec", "set -o pipefail; " + shortened(command)],
            cwd=checkout, env=environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
        ran += 1
    assert ran >= 9


def test_both_readmes_print_the_same_commands():
    assert commands("README.md") == commands("README_cn.md")


def test_what_is_left_out_or_shortened_is_there():
    printed = commands("README.md")
    for start in LEFT_OUT:
        assert any(command.startswith(start) for command in printed), start
    for program in SHORTER:
        assert any(program in shlex.split(command) for command in printed), program
    assert sum(map(left_out, printed)) <= 4
