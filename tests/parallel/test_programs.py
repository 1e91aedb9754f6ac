"""Programs that split a model themselves; each is a process of its own, which starts the other one."""

import json
import subprocess
import sys

import pytest

from tests.evaluation.toys import write_images
from tests.tiny_model import ANSWER

pytestmark = pytest.mark.slow

APPFLOW = """
import json, sys
from paddlemix.appflow import Appflow

flow = Appflow(app="image2text_generation", models=[sys.argv[1]], tensor_parallel=2)
print(json.dumps([flow(prompt="what?"), flow(prompt=["what?", "where?"])], default=str))
"""
EVALUATE = """
import sys
from paddlemix.cli.commands.evaluate import main
from paddlemix.evaluation.benchmarks import BENCHMARKS
from tests.evaluation.toys import toy_benchmark

BENCHMARKS["toy"] = toy_benchmark()
model, folder = sys.argv[1:]
options = ["--data_dir", folder, "--output_dir", folder, "--limit", "4", "--cache_mib", "8", "--tensor_parallel", "2"]
sys.exit(main(["run", "toy", "--model", model, *options]))
"""


def run(program, *arguments):
    """What a program prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_appflow_answers_with_a_split_model(tiny_model_dir):
    one, two = json.loads(run(APPFLOW, tiny_model_dir).splitlines()[-1])
    assert one["result"] == ANSWER and two["result"] == [ANSWER] * 2


def test_a_split_model_is_evaluated(tiny_model_dir, tmp_path):
    write_images(tmp_path)
    assert "toy test   4 of 20    100.00 %" in run(EVALUATE, tiny_model_dir, tmp_path)
