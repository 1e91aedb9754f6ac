"""The scenes that are written are the benchmark's questions, with answers that it scores as right."""

from __future__ import annotations

from pathlib import Path

from examples.bundled_model.export_scenes import EXPORTED, main
from paddlemix.evaluation.benchmarks import get_benchmark
from tests.evaluation.small_data import right_answer, wrong_answer


def test_scenes_are_written_and_scored(tmp_path: Path, capsys) -> None:
    assert main(["--data_dir", str(tmp_path), "--count", "2"]) == 0
    assert f"scenes/test.jsonl: {2 * 2 * len(EXPORTED)} questions" in capsys.readouterr().out
    benchmark = get_benchmark("scenes")
    questions = benchmark.questions(tmp_path)
    assert {question.metadata["task"] for question in questions} == set(EXPORTED)
    assert all(Path(question.image.path).is_file() for question in questions)
    assert benchmark.score(questions, {q.id: right_answer(q) for q in questions}).value == 100
    assert benchmark.score(questions, {q.id: wrong_answer(q) for q in questions}).value == 0
    text = (tmp_path / "scenes/test.jsonl").read_text(encoding="utf-8")
    main(["--data_dir", str(tmp_path), "--count", "2"])
    assert (tmp_path / "scenes/test.jsonl").read_text(encoding="utf-8") == text
