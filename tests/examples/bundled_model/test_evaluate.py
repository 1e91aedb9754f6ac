from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from tests.forked import run_forked

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "bundled_model" / "evaluate.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_forked([str(SCRIPT), *arguments], SCRIPT.parents[2])


def test_help_names_the_tasks_and_the_baselines():
    result = run("--help")
    assert result.returncode == 0
    assert "refer" in result.stdout and "caption" in result.stdout and "baselines" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--count", "0"), "'0'"), (("--task", "poetry"), "'poetry'"), (("--style", "oil"), "'oil'")],
)
def test_wrong_options_are_one_line_and_status_two(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_adapter_that_is_not_there_is_one_line(tmp_path):
    result = run("--count", "1", "--adapter", str(tmp_path / "absent"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "absent" in result.stderr and result.stderr.count("\n") == 1


def test_a_plain_hyphen_stands_for_the_dash_of_a_tasks_name():
    spec = importlib.util.spec_from_file_location("evaluate_bundled", SCRIPT)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    options = program.parser().parse_args(["--task", "what (2-5 objects)", "--task", "what (2–5 objects)"])
    assert options.task == ["what (2–5 objects)"] * 2
