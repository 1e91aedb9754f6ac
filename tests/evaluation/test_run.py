from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.benchmarks import BENCHMARKS
from paddlemix.evaluation.run import TaskReport, run
from paddlemix.evaluation.scoring import score_folder, table
from paddlemix.evaluation.shards import Shard
from paddlemix.evaluation.tasks import RunOptions, make_task
from tests.evaluation.fake_backend import FakeBackend
from tests.evaluation.toys import toy_benchmark, write_images


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for benchmark in (toy_benchmark(), toy_benchmark(name="hidden", is_scored=False)):
        monkeypatch.setitem(BENCHMARKS, benchmark.name, benchmark)
    folder = tmp_path / "data"
    folder.mkdir()
    write_images(folder)
    yield folder


def run_toy(
    tmp_path: Path, backend: FakeBackend | None = None, name: str = "toy", output: str = "out", **options: object
) -> tuple[TaskReport, list[str]]:
    lines: list[str] = []
    run_options = RunOptions(tmp_path / "data", tmp_path / output, **options)  # type: ignore[arg-type]
    tasks = [make_task(name, run_options)]
    (report,) = run(tasks, run_options, lambda: backend or FakeBackend(), lines.append)
    return report, lines


def test_a_run_is_planned_answered_and_scored(tmp_path: Path) -> None:
    report, lines = run_toy(tmp_path)
    assert report.is_complete and report.new == 20
    assert lines[0].startswith("toy test: 20 questions about 6 images; about 1.6 min")  # 6 x 2 + 14 x 1 + 20 x 7 x 0.5
    assert "100% 20/20" in lines[-1]
    result = score_folder(report.task.folder, tmp_path / "data", compat=True)
    assert result.score is not None and result.score.value == 50.0
    assert "Qwen-VL 12.5" in table([result])


def test_a_run_that_was_killed_twice_gives_the_same_file(tmp_path: Path) -> None:
    run_toy(tmp_path, output="whole")
    for died in (3, 8):
        process = os.fork()
        if process == 0:
            run_toy(tmp_path, FakeBackend(dies_after=died))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    backend = FakeBackend()
    report, _ = run_toy(tmp_path, backend)
    assert (report.answered, report.new) == (11, 9)
    assert len(backend.asked) == 10
    files = [(tmp_path / name / "toy-test" / "answers.jsonl").read_bytes() for name in ("whole", "out")]
    assert files[0] == files[1]


def test_shards_add_up_and_another_division_goes_on(tmp_path: Path) -> None:
    run_toy(tmp_path, shard=Shard(1, 3))
    with pytest.raises(EvaluationError, match="have none"):
        score_folder(tmp_path / "out" / "toy-test", tmp_path / "data")
    partial = score_folder(tmp_path / "out" / "toy-test", tmp_path / "data", partial=True)
    assert 0 < len(partial.questions) < 20
    reports = [run_toy(tmp_path, shard=Shard(index, 2))[0] for index in (1, 2)]
    assert sum(report.new for report in reports) == 20 - len(partial.questions)
    result = score_folder(tmp_path / "out" / "toy-test", tmp_path / "data")
    assert result.score is not None and result.score.n == 20


def test_a_larger_sample_keeps_the_answers_of_a_smaller_one(tmp_path: Path) -> None:
    run_toy(tmp_path, limit=5)
    small = score_folder(tmp_path / "out" / "toy-test", tmp_path / "data")
    assert (len(small.questions), small.total, small.is_sample) == (5, 20, True)
    backend = FakeBackend()
    report, _ = run_toy(tmp_path, backend, limit=9)
    assert (report.answered, report.new) == (5, 4)
    larger = score_folder(tmp_path / "out" / "toy-test", tmp_path / "data")
    assert {q.id for q in small.questions} < {q.id for q in larger.questions}


def test_questions_that_fail_are_counted_and_asked_again(tmp_path: Path) -> None:
    report, lines = run_toy(tmp_path, FakeBackend(fails=["q3", "q4"]))
    assert not report.is_complete and len(report.failures) == 2
    assert any("question q3 got no answer: the image is damaged" in line for line in lines)
    with pytest.raises(EvaluationError, match="2 of 20 questions have none"):
        score_folder(report.task.folder, tmp_path / "data")
    assert run_toy(tmp_path)[0].is_complete


def test_another_model_does_not_go_on_with_the_answers(tmp_path: Path) -> None:
    run_toy(tmp_path, FakeBackend(fails=["q3"]))
    with pytest.raises(EvaluationError, match="dtype None, this run has 'bfloat16'"):
        run_toy(tmp_path, FakeBackend(settings={"dtype": "bfloat16"}))


def test_data_that_changed_is_noticed_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy(tmp_path)
    monkeypatch.setitem(BENCHMARKS, "toy", toy_benchmark(questions=21))
    with pytest.raises(EvaluationError, match="other questions"):
        score_folder(tmp_path / "out" / "toy-test", tmp_path / "data")
    options = RunOptions(tmp_path / "data", tmp_path / "out")
    with pytest.raises(EvaluationError, match="answers were made with data"):
        run([make_task("toy", options)], options, pytest.fail, print)


def test_missing_images_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "data" / "blue.png").unlink()
    with pytest.raises(EvaluationError, match="1 of 6 images are missing, the first is .*blue.png"):
        run_toy(tmp_path)


def test_a_hidden_truth_gives_no_score(tmp_path: Path) -> None:
    report, _ = run_toy(tmp_path, name="hidden")
    result = score_folder(report.task.folder, tmp_path / "data")
    assert result.score is None
    assert "not public" in table([result])


def test_nothing_is_loaded_for_a_plan_beyond_the_rates(tmp_path: Path) -> None:
    options = RunOptions(tmp_path / "data", tmp_path / "out")
    backend = FakeBackend()
    run([make_task("toy", options)], options, lambda: backend, print, plan_only=True)
    assert backend.asked == ["closed"]
    assert not (tmp_path / "out").exists()
