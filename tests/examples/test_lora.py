"""The programs that take, merge and convert LoRA adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.predict import predict
from tests.adapters.building import write_silencing_adapter


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory) -> Path:
    return write_silencing_adapter(tiny_model_dir, tmp_path_factory.mktemp("adapter"))


def test_run_predict_and_merge_lora(run_example, tiny_model_dir, adapter, tmp_path):
    model = ("--model_name_or_path", tiny_model_dir)
    unmerged = run_example("run_predict.py", *model, "--adapter", adapter, "--prompt", "Hello")
    assert (unmerged.returncode, unmerged.stdout) == (0, "response: \n")
    merging = run_example("merge_lora.py", *model, "--adapter", adapter, "--output_dir", "merged")
    assert merging.returncode == 0 and merging.stdout.startswith("merged: ")
    assert predict("?\n", model=tmp_path / "run" / "merged").text == ""


def test_convert_lora(run_example, tiny_model_dir, adapter, tmp_path):
    options = ("--dtype", "float16", "--model_name_or_path", tiny_model_dir)
    result = run_example("convert_lora.py", adapter, "half", *options)
    assert (result.returncode, result.stdout) == (0, "half: rank 1, 1 adapted layers, 1 whole weights\n")
    assert predict("?\n", model=tiny_model_dir, adapter=tmp_path / "run" / "half").text == ""


@pytest.mark.parametrize(
    "program, arguments, status, message",
    [
        (
            "merge_lora.py",
            ["--adapter", "absent", "--output_dir", "out"],
            1,
            "error: adapter: 'absent' is no directory",
        ),
        ("merge_lora.py", ["--adapter", "ADAPTER", "--output_dir", "out"], 1, "does not fit the model"),
        ("merge_lora.py", ["--output_dir", "out"], 2, "error: the following arguments are required: --adapter"),
        ("convert_lora.py", ["ADAPTER", "ADAPTER"], 1, "is the folder of the source itself"),
    ],
)
def test_errors_are_one_line(run_example, adapter, tmp_path, program, arguments, status, message):
    result = run_example(program, *[str(adapter) if argument == "ADAPTER" else argument for argument in arguments])
    assert result.returncode == status
    last = result.stderr.splitlines()[-1]
    assert message in last
    assert not [line for line in result.stderr.splitlines() if not line.startswith(("note:", "error:"))]
    assert list((tmp_path / "run").iterdir()) == []
