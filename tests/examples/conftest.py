"""Running the example programs as a user does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forked import run_forked

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "qwen_vl"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs keep for their user, such as the lines of chats, is not that of whoever runs the tests."""
    monkeypatch.setenv("PADDLEMIX_HOME", str(tmp_path / "home"))


@pytest.fixture
def run_example(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """``run_example("run_predict.py", *arguments)`` runs a program in an empty folder, ``tmp_path / "run"``.

    The program runs in a fork of this process, which has imported Paddle and PaddleNLP once for all of them: streams,
    exit status and working folder are its own. Programs that a test starts with ``subprocess`` begin from nothing.
    """
    folder = tmp_path / "run"
    folder.mkdir()

    def run(program: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess:
        command = [str(EXAMPLES / program), *map(str, arguments)]
        return run_forked(command, folder, stdin)

    return run
