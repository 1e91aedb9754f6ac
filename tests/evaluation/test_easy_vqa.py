"""A published set from end to end: questions of easy-VQA, asked of the bundled model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from paddlemix.cli.commands.evaluate import main
from paddlemix.evaluation import answer_files
from paddlemix.evaluation.records import Answer

pytest.importorskip("easy_vqa", reason="the extra evaluate is not installed")

QUESTIONS = 16


def evaluate(folder: Path) -> int:
    return main(["run", "easy-vqa", "--limit", str(QUESTIONS), "--output_dir", str(folder), "--cache_mib", "16"])


def evaluate_and_die(folder: Path, answers: int) -> None:
    """In a process of its own, which is killed in the middle of a line."""
    import paddlenlp  # noqa: F401 - before the fork, once for all

    process = os.fork()
    if process == 0:
        left = [answers]

        def write(self: answer_files.AnswerWriter, answer: Answer) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.write(os.open(self.path, os.O_WRONLY | os.O_APPEND), b'{"id": "torn')
                os.kill(os.getpid(), signal.SIGKILL)
            self._lines.append(answer.to_json())

        answer_files.AnswerWriter.write = write  # type: ignore[method-assign]
        evaluate(folder)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def test_a_run_that_was_killed_twice_ends_with_the_same_answers_and_score(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "whole") == 0
    table = capfd.readouterr().out
    evaluate_and_die(tmp_path / "killed", 4)
    evaluate_and_die(tmp_path / "killed", 6)
    assert evaluate(tmp_path / "killed") == 0
    printed = capfd.readouterr()
    assert "its last line is torn and was dropped" in printed.err and "10 answered already" in printed.err
    files = [(tmp_path / name / "easy-vqa-test" / "answers.jsonl").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1] and files[0].count(b"\n") == 1 + QUESTIONS
    assert printed.out == table and f"{QUESTIONS} of 9,673" in table
