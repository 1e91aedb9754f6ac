from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from paddlemix.errors import EvaluationError, OutputError
from paddlemix.evaluation.answer_files import AnswerWriter, read_file, read_folder
from paddlemix.evaluation.records import Answer
from paddlemix.evaluation.shards import Shard

SETTINGS = {"benchmark": "toy", "dtype": "float32"}
WHOLE = Shard()
SAMPLE = {"limit": None, "seed": 0}


def write(folder: Path, *answers: Answer, shard: Shard = WHOLE, settings: dict[str, Any] = SETTINGS) -> Path:
    with AnswerWriter(folder, shard, settings, SAMPLE) as writer:
        for answer in answers:
            writer.write(answer)
    return writer.path


def test_answers_come_back(tmp_path: Path) -> None:
    answers = [
        Answer("a", "blue\n\u2028 猫 \ud800", 3, -1.5),
        Answer("b", losses=(0.5, 0.25), finish_reason="choice"),
    ]
    stored = read_file(write(tmp_path, *answers))
    assert list(stored.answers.values()) == answers
    assert (stored.settings, stored.sample, stored.notes) == (SETTINGS, SAMPLE, ())


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_dropped_and_said_and_written_over(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, Answer("a", "one"), Answer("b", "two"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    stored = read_file(path)
    assert list(stored.answers) == ["a"]
    assert "torn" in stored.notes[0]
    write(tmp_path, Answer("b", "two"))
    assert path.read_bytes() == whole


def test_a_damaged_line_within_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, Answer("a", "one"), Answer("b", "two"))
    path.write_bytes(path.read_bytes().replace(b'{"id": "a"', b'{"id" "a"'))
    with pytest.raises(EvaluationError, match=r"answers.jsonl:2: is no JSON"):
        read_file(path)


def test_another_runs_answers_are_not_mixed_in(tmp_path: Path) -> None:
    write(tmp_path, Answer("a", "one"))
    with pytest.raises(EvaluationError, match="dtype 'float32', this run has 'bfloat16'"):
        write(tmp_path, Answer("b", "two"), settings={**SETTINGS, "dtype": "bfloat16"})
    write(tmp_path / "other", Answer("b", "two"), settings={**SETTINGS, "dtype": "bfloat16"})
    (tmp_path / "other" / "answers.jsonl").rename(tmp_path / "answers-2-of-2.jsonl")
    with pytest.raises(EvaluationError, match="dtype"):
        read_folder(tmp_path)


def test_shards_are_merged_and_a_question_answered_twice_must_be_answered_alike(tmp_path: Path) -> None:
    write(tmp_path, Answer("a", "one"), shard=Shard(1, 2))
    write(tmp_path, Answer("b", "two"), Answer("a", "one"), shard=Shard(2, 2))
    assert set(read_folder(tmp_path).answers) == {"a", "b"}
    write(tmp_path, Answer("b", "three"), shard=Shard(1, 3))
    with pytest.raises(EvaluationError, match=r"second answer to question 'b', 'two', differs from the first, 'three'"):
        read_folder(tmp_path)


def test_only_one_process_writes_a_file(tmp_path: Path) -> None:
    with AnswerWriter(tmp_path, Shard(), SETTINGS, SAMPLE), pytest.raises(EvaluationError, match="another process"):
        AnswerWriter(tmp_path, Shard(), SETTINGS, SAMPLE)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "text": "x"}\n')
    with pytest.raises(EvaluationError, match="does not say which run"):
        read_folder(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:  # a limit of a process's files stands for the disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        status = 1
        try:
            write(tmp_path, *(Answer(f"q{index}", "x" * 90) for index in range(20)))
        except OutputError as error:
            status = 0 if re.search("cannot be written: .*what was answered before is in it", str(error)) else 2
        os._exit(status)
    assert os.waitpid(process, 0)[1] == 0
    path = tmp_path / "answers.jsonl"
    assert path.read_bytes().endswith(b"}\n")
    stored = read_file(path)
    assert list(stored.answers) == [f"q{index}" for index in range(len(stored.answers))]
    assert 3 < len(stored.answers) < 20
    write(tmp_path, Answer("last", "room again"))
    assert "last" in read_file(path).answers
