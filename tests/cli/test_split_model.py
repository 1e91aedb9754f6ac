"""Programs that share their model with processes that they start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "paddlemix", "predict", "--device", "cpu", "--seed", "1", *options]
    return subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_answer_is_that_of_one_process_and_says_nothing_more(tmp_path):
    alone, split = run(tmp_path), run(tmp_path, "--tensor_parallel", "2")
    assert split.returncode == 0, split.stderr
    assert (split.stdout, split.stderr) == (alone.stdout, alone.stderr)


@pytest.mark.slow
def test_more_processes_than_heads_are_one_line(tmp_path):
    refused = run(tmp_path, "--tensor_parallel", "4")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        "error: tensor_parallel: got 4 processes for 3 attention heads, expected at most one for each"
    )
