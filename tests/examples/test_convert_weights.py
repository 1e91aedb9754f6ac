from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paddlemix.checkpoint import layouts
from tests.checkpoint.building import open_checkpoint, random_weights, write_model

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source", layouts.HF)


def test_there_and_back(run_example: Run, golden_dir: Path, tmp_path: Path) -> None:
    original = golden_dir / "model" / "ckpt_bin"
    there = run_example("convert_weights.py", original, "paddle", "--verify", "--max_shard_size", "0.001")
    assert there.returncode == 0
    assert (
        there.stderr == "note: qwen.tiktoken is missing in the source; programs need it beside the weights to answer.\n"
    )
    assert there.stdout == "paddle: 69 tensors, 0.01 GB, 6 files, hf -> paddle, verified\n"
    back = run_example("convert_weights.py", "paddle", "hf", "--to", "hf", "--verify")
    assert back.stdout == "hf: 69 tensors, 0.01 GB, 1 files, paddle -> hf, verified\n"
    golden, result = open_checkpoint(original), open_checkpoint(tmp_path / "run" / "hf")
    for name in golden.names():
        np.testing.assert_array_equal(golden.read(name), result.read(name))


def test_help_shows_both_directions(run_example: Run) -> None:
    result = run_example("convert_weights.py", "--help")
    assert result.returncode == 0
    assert "Hugging Face -> Paddle" in result.stdout
    assert "--to {paddle,hf}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["absent", "out"], 1, "error: model 'absent' is neither a folder nor a model's name"),
        (["SOURCE", "out", "--dtype", "int4"], 2, "error: argument --dtype: invalid choice: 'int4'"),
        (["SOURCE", "SOURCE"], 1, "is the folder of the source itself"),
        (["SOURCE", "out", "--max_shard_size", "0"], 1, "error: max_shard_bytes: got 0"),
        (["SOURCE", "out", "--max_shard_size", "nan"], 2, "error: argument --max_shard_size: invalid gigabytes value"),
        (["SOURCE"], 2, "error: the following arguments are required: OUTPUT"),
    ],
)
def test_errors_are_one_line(
    run_example: Run, source: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    result = run_example("convert_weights.py", *[source if a == "SOURCE" else a for a in arguments])
    assert result.returncode == status
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "run").iterdir()) == []


def test_damaged_values_are_named_and_nothing_is_written(run_example: Run, tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    weights["lm_head.weight"][0, 0] = np.nan
    source = write_model(tmp_path / "source", layouts.HF, weights)
    result = run_example("convert_weights.py", source, "out")
    assert result.returncode == 1
    assert result.stderr.endswith("refused: 'lm_head.weight' holds 1 NaN or infinite values\n")
    assert not (tmp_path / "run" / "out").exists()
    assert run_example("convert_weights.py", source, "out", "--allow_non_finite").returncode == 0
