"""Result files of the published scripts are scored as a run is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlemix.cli.main import main
from paddlemix.errors import EvaluationError
from paddlemix.evaluation.benchmarks import get_benchmark
from paddlemix.evaluation.imported import import_answers
from paddlemix.evaluation.scoring import score_folder
from tests.evaluation import small_data


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    small_data.write_all(path)
    return path


def truth(name: str, data_dir: Path) -> list[tuple[str, str]]:
    return [(q.id, q.references[0]) for q in get_benchmark(name).questions(data_dir)]


def scored(name: str, content: object, data_dir: Path, tmp_path: Path, file: str = "results.json") -> float:
    path = tmp_path / file
    lines = "\n".join(map(json.dumps, content)) + "\n" if file.endswith("l") else json.dumps(content)
    path.write_text(lines, encoding="utf-8")
    folder = import_answers(name, None, path, data_dir, tmp_path / "out")
    result = score_folder(folder, data_dir, compat=True)
    assert result.protocol == "imported"
    return result.score.value


@pytest.mark.parametrize(
    ("name", "id_field", "text_field"),
    [
        ("okvqa", "question_id", "answer"),
        ("docvqa", "questionId", "answer"),
        ("gqa", "questionId", "prediction"),
        ("chartqa", None, "answer"),
        ("ai2d", "image", "answer"),
    ],
)
def test_results_are_matched_by_id_or_in_order(
    name: str, id_field: str | None, text_field: str, data_dir: Path, tmp_path: Path
) -> None:
    ids = {id_field: 0} if id_field else {}
    records = [{**dict.fromkeys(ids, id_.split("#")[0]), text_field: text} for id_, text in truth(name, data_dir)]
    assert scored(name, records, data_dir, tmp_path) == pytest.approx(100)


def test_options_are_numbers_or_letters(data_dir: Path, tmp_path: Path) -> None:
    questions = get_benchmark("mmbench").questions(data_dir)
    records = [{"index": int(q.id), "prediction": q.metadata["answer"]} for q in questions]
    assert scored("mmbench", records, data_dir, tmp_path) == 100
    questions = get_benchmark("seed-bench").questions(data_dir)
    records = [{"question_id": q.id, "prediction": "ABCD"[q.metadata["answer"]]} for q in questions]
    assert scored("seed-bench", records, data_dir, tmp_path, "results.jsonl") == 100


def test_mme_has_a_file_for_each_category(data_dir: Path, tmp_path: Path) -> None:
    for path in (data_dir / "mme/Your_Results").iterdir():
        rows = ["\t".join((line, line.split("\t")[-1])) for line in path.read_text().splitlines()]
        (tmp_path / path.name).write_text("\n".join(rows) + "\n")
    folder = import_answers("mme", None, tmp_path, data_dir, tmp_path / "out")
    assert score_folder(folder, data_dir).score.value == 2000
    (tmp_path / "OCR.txt").write_text("0.png\tonly two\n")
    with pytest.raises(EvaluationError, match="OCR.txt: got .* expected the line of 0.png"):
        import_answers("mme", None, tmp_path, data_dir, tmp_path / "other")
    with pytest.raises(EvaluationError, match="is a directory"):
        import_answers("gqa", None, tmp_path, data_dir, tmp_path / "other")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"questionId": "100", "answer": "x"}, {"questionId": "100", "answer": "y"}], "number 1: answers '100' again"),
        ([{"questionId": "99", "answer": "x"}], "questionId '99' is no question of this split"),
        ([{"answer": "x"}], "has 1 records without ids, expected 6"),
        ([{"questionId": "100", "other": "x"}], "expected a text under answer, caption"),
        ({"questionId": "100"}, "expected a list of JSON objects"),
    ],
)
def test_what_answers_nothing_is_refused(records: object, message: str, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=message):
        scored("gqa", records, data_dir, tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command_imports(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"questionId": id_, "answer": text} for id_, text in truth("gqa", data_dir)]))
    where = ["--data_dir", str(data_dir)]
    assert main(["evaluate", "import", "gqa", str(path), *where, "--output_dir", str(tmp_path / "out")]) == 0
    assert main(["evaluate", "score", str(tmp_path / "out/gqa-testdev"), *where, "--compat", "original"]) == 0
    assert "100.00 %" in capsys.readouterr().out
