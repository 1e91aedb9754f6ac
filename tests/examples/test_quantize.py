"""examples/qwen_vl/quantize.py, run as a user runs it."""

from __future__ import annotations

import json

from PIL import Image


def test_a_calibrated_model_answers(run_example, tiny_model_dir, tmp_path):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "run" / "a.png")
    talk = {"conversations": [
        {"from": "user", "value": "Picture 1: <img>a.png</img>\nWhat is this?"}, {"from": "assistant", "value": "bus"},
    ]}  # fmt: skip
    (tmp_path / "run" / "talks.json").write_text(json.dumps([talk] * 3))
    options = ["--model_name_or_path", tiny_model_dir, "--data", "talks.json", "--max_samples", 2]
    done = run_example("quantize.py", *options, "--output_dir", "int4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "int4: 10 layers in int4\n"
    assert done.stderr.splitlines()[-1] == "block 2 of 2 is calibrated"
    again = run_example("quantize.py", *options, "--output_dir", tiny_model_dir)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].endswith("is the folder of the source itself; name another one")
    assert "is calibrated" not in again.stderr, "told before the work"
    answered = run_example("run_predict.py", "--model_name_or_path", "int4", "--prompt", "Where?")
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.startswith("response: ")


def test_mistakes_are_one_line(run_example, tiny_model_dir):
    done = run_example("quantize.py", "--output_dir", "int4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the following arguments are required: --data (--help lists the options)\n"
    done = run_example("quantize.py", "--data", "missing.json", "--output_dir", "int4")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: missing.json cannot be read: ")
    assert done.stderr.count("\n") == 1
