"""A model that has answered answers in forked children as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends import require_library

ROOT = Path(__file__).resolve().parents[2]
ANSWER = "<ref>dog</ref><box>(700,470),(890,670)</box>"
# The user forbids the OpenMP runtime to start anew: children compute on one thread.
NO_NEW_THREADS = {"KMP_INIT_AT_FORK": "FALSE"}
MORE_THREADS = {"OMP_NUM_THREADS": "3"}  # Paddle's own loops use several as well


@pytest.mark.parametrize(
    "quantization, how, settings",
    [
        ("float32", "fork", {}),
        ("int4", "pool", {}),
        ("float32", "thread", MORE_THREADS),
        pytest.param("float32", "sklearn", MORE_THREADS, marks=pytest.mark.slow),  # as NO_NEW_THREADS does
        ("int4", "fork", NO_NEW_THREADS),
        pytest.param(
            *("float32", "fork", {**MORE_THREADS, **NO_NEW_THREADS, "PADDLEMIX_OPS": "reference"}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_children_of_a_model_in_use_answer(quantization, how, settings):
    require_library()
    kept = {name: value for name, value in os.environ.items() if name not in {**MORE_THREADS, **NO_NEW_THREADS}}
    environment = {**kept, "PADDLEMIX_OPS": "auto", "PADDLEMIX_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), **settings}
    program = [sys.executable, str(ROOT / "tests" / "ops" / "forked_answers.py"), quantization, how]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [ANSWER] * 3
