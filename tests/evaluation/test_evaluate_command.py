from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlemix.cli.commands.evaluate import main
from paddlemix.errors import EvaluationError
from paddlemix.evaluation.benchmarks import BENCHMARKS
from tests.evaluation.fake_server import chat_reply, serving
from tests.evaluation.toys import toy_benchmark, write_images
from tests.tiny_model import write_tiny_model


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for benchmark in (toy_benchmark(), toy_benchmark(name="hidden", is_scored=False)):
        monkeypatch.setitem(BENCHMARKS, benchmark.name, benchmark)
    write_images(tmp_path)
    return tmp_path


def test_a_model_is_run_scored_again_and_reported(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_model(data_dir / "model")
    where = ["--data_dir", str(data_dir)]
    command = ["run", "toy", *where, "--output_dir", str(data_dir / "out"), "--model", str(data_dir / "model")]
    assert main([*command, "--limit", "5", "--max_rows", "2", "--cache_mib", "8"]) == 0
    printed = capsys.readouterr()
    assert "toy test   5 of 20    100.00 %" in printed.out
    assert "toy test: 5 questions about 3 images; about" in printed.err
    folder = data_dir / "out" / "toy-test"
    assert json.loads((folder / "score.json").read_text())["score"]["value"] == 100.0
    assert main(["score", str(folder), *where, "--compat", "original", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["original"]["value"] == 100.0
    assert main(["report", str(folder), *where, "--output", str(data_dir / "report.html")]) == 0
    assert (data_dir / "report.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(EvaluationError, match="no server takes its answers"):
        main(["export", str(folder), *where])


def test_a_server_is_run_in_shards_with_a_key(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(lambda path, body: chat_reply("10")) as (url, got):
        command = ["run", "toy", "--data_dir", str(data_dir), "--output_dir", str(data_dir / "out"), "--server", url]
        command += ["--served_model_name", "m", "--api_key_variable", "MY_KEY"]
        assert main([*command, "--shard", "1/2"]) == 0
        monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
        assert main(command) == 0
    assert {body["key"] for body in got} == {"Bearer secret"} and {body["model"] for body in got} == {"m"}
    assert "shard 2/2 is done" in capsys.readouterr().err
    assert main(["score", str(data_dir / "out" / "toy-test"), "--data_dir", str(data_dir)]) == 0
    assert "server's own template" in capsys.readouterr().out


def test_the_benchmarks_are_listed(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("gqa:testdev") and "12,578" in line for line in lines)
    assert any(line.startswith("hidden:test") and "by its server" in line for line in lines)


def test_data_that_is_missing_is_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "toy", "gqa", "--data_dir", str(data_dir), "--check"]) == 1
    printed = capsys.readouterr().out
    assert "toy:test: 20 questions" in printed and "toy:test: 6 images" in printed
    assert "gqa/testdev_balanced.jsonl is missing" in printed
    (data_dir / "red.png").unlink()
    assert main(["data", "toy", "--data_dir", str(data_dir), "--check"]) == 1
    assert "1 of the images are missing" in capsys.readouterr().out


def test_what_cannot_be_is_told_before_a_model_is_loaded(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["nothing"], "there is no 'nothing'"),
        (["toy:val"], "toy has no 'val'"),
        (["toy", "toy:test"], "stands twice"),
        (["toy", "--shard", "0/1"], "shard: got"),
        (["toy", "--server", "localhost"], "expected an address"),
    ):
        with pytest.raises(EvaluationError, match=message):
            main(["run", *words, "--data_dir", str(data_dir), "--output_dir", str(data_dir / "out")])
    with pytest.raises(SystemExit):
        main(["run", "toy", "--limit", "0"])
    assert "expected a number of at least 1" in capsys.readouterr().err
