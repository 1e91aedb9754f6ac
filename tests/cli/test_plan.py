"""``paddlemix plan``: what it prints and refuses; ``tests/serving/test_capacity.py`` has the numbers."""

from __future__ import annotations

import json

import pytest

from paddlemix.cli.commands import plan as plan_command
from paddlemix.errors import ConfigurationError


def test_plan_prints_an_estimate(capsys):
    assert plan_command.main(["--gpus", "2", "--gpu", "h100", "--users", "5000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("weights: 19.3 GB") and any("with 2 replicas on 2 GPUs" in line for line in lines)
    assert "need more GPUs" in lines[-1] and lines[-2].startswith("paddlemix serve --replicas 2 --max_rows ")
    assert plan_command.main(["--users", "5000", "--json", "--quantization", "int4"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["all_users"] >= 5000 > told["all_users"] - told["users"]
    assert plan_command.main(["--memory", "24", "--bandwidth", "900", "--tflops", "100", "--quantization", "int8"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "x"], "gpu: got 'x'"),
        (["--memory", "24"], "expected all three"),
        (["--bandwidth_share", "2"], "bandwidth_share: got 2"),
        (["--gpus", "1", "--tensor_parallel", "2"], "gpus: got 1"),
        (["--model_name_or_path", "/nowhere"], "no config.json"),
        (["--memory", "8", "--bandwidth", "900", "--tflops", "100"], "needs 2"),
    ],
)
def test_plan_says_what_is_wrong(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        plan_command.main(arguments)
