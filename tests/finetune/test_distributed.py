"""Two processes over gloo train as one process with the same global batch does; sharding changes nothing."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.finetune.configuration import FinetuneConfig
from paddlemix.finetune.run import finetune
from tests.finetune.conversations import write_conversations
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
SHARDING = ("none", "stage1", "stage2", "stage3")


def tensors(path):
    return {name: tensor.load().copy() for name, tensor in read_safetensors(path)[0].items()}


def log(folder):
    with open(folder / "log.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("loss", "grad_norm", "learning_rate", "tokens", "eval_loss")
    return {name: [float(row[name]) for row in rows if row[name]] for name in columns}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs: each in one process (``one-…``) and in two (``two-…``)."""
    folder = tmp_path_factory.mktemp("runs")
    small = write_conversations(folder / "small", 8)
    large = write_conversations(folder / "large", 5, size=168)
    tiny = write_tiny_model(folder / "tiny")
    common = {
        "max_length": 512,
        "learning_rate": 1e-3,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "save_steps": 2,
        "visualdl": False,
    }
    full = {"data": str(small), "model_name_or_path": str(tiny), "mode": "full", "freeze": [], "num_train_epochs": 1}
    lora = {**full, "mode": "lora", "freeze": None, "lora_r": 4, "lora_targets": ["c_attn", "w1", "in_proj"]}
    kinds = {
        "bundled": {"data": str(large), "mode": "full", "num_train_epochs": 1},
        "full": {**full, "recompute": True, "eval_data": str(small), "eval_samples": 0},
        "lora": {**lora, "lora_dropout": 0.0, "packing": True, "max_length": 200, "num_train_epochs": 2},
    }
    for name, options in kinds.items():
        rows = {"per_device_train_batch_size": 2}
        finetune(FinetuneConfig(**{**common, **options, **rows, "output_dir": str(folder / f"one-{name}")}))
    # one launch for all of them: starting processes takes longer than training
    two = {"bundled-none": kinds["bundled"], "lora-stage3": kinds["lora"]}
    two.update({f"full-{sharding}": kinds["full"] for sharding in SHARDING})
    paths = []
    for name, options in two.items():
        sharding = name.partition("-")[2]
        options = {**common, **options, "sharding": None if sharding == "none" else sharding}
        paths.append(write(folder, f"two-{name}", options))
    dropout = {**lora, **common, "lora_dropout": 0.3, "sharding": "stage3", "num_train_epochs": 2}
    paths.append(write(folder, "resumed-whole", dropout))
    paths.append(write(folder, "resumed-cut", {**dropout, "interrupt_after": 3}))
    paths.append(write(folder, "resumed-cut", dropout, "resumed-again"))
    paths.append(write(folder, "signalled", {**dropout, "save_steps": 100, "signal_after": 2}))
    paths.append(write(folder, "signalled", {**dropout, "save_steps": 100}, "signalled-again"))
    paths.append(write(folder, "refused", {**full, "data": str(folder / "no.json")}))
    paths.append(write(folder, "diverged", {**full, **common, "learning_rate": 1e30, "max_grad_norm": 0.0}))
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    command += ["--log_dir", str(folder / "logs"), str(ROOT / "tests/finetune/distributed_runs.py"), *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, "\n".join(path.read_text()[-3000:] for path in folder.glob("logs/workerlog.*"))
    return folder


def write(folder, output, options, name=None):
    path = folder / f"{name or output}.json"
    path.write_text(json.dumps({**options, "output_dir": str(folder / output)}))
    return path


PAIRS = [("bundled", "none"), ("lora", "stage3"), *(("full", sharding) for sharding in SHARDING)]


@pytest.mark.parametrize(("kind", "sharding"), PAIRS)
def test_losses_and_weights_are_those_of_one_process(runs, kind, sharding):
    one, two = runs / f"one-{kind}", runs / f"two-{kind}-{sharding}"
    expected, found = log(one), log(two)
    assert len(expected["loss"]) >= 2
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=1e-6, err_msg=name)
    (result,) = one.glob("*model.safetensors")
    expected, found = tensors(result), tensors(two / result.name)
    assert set(found) == set(expected)
    for name, values in expected.items():
        # AdamW makes a step of the size of the learning rate of the smallest difference, so weights agree less well
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-4, err_msg=name)


def test_a_sharded_run_is_resumed_exactly(runs):
    assert (runs / "resumed-cut.0.error").is_file() and not (runs / "resumed-again.0.error").exists()
    assert log(runs / "resumed-cut") == log(runs / "resumed-whole")
    expected, found = (tensors(runs / name / "adapter_model.safetensors") for name in ("resumed-whole", "resumed-cut"))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_all_processes_end_with_the_one_that_was_told_to_and_go_on_exactly(runs):
    first, second = ((runs / f"signalled.{rank}.error").read_text() for rank in (0, 1))
    assert first == second and "stopped by SIGTERM after step 3 of" in first
    assert not (runs / "signalled-again.0.error").exists()
    assert log(runs / "signalled") == log(runs / "resumed-whole")


def test_each_process_keeps_its_part_of_the_optimizer_state(runs):
    parts = sorted((runs / "two-full-stage2" / "checkpoint-2").glob("optimizer-*.safetensors"))
    assert len(parts) == 2
    first, second = (tensors(path) for path in parts)
    assert not set(first) & set(second)
    sizes = [sum(values.size for values in part.values()) for part in (first, second)]
    assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.parametrize(("name", "said"), [("refused", "no.json"), ("diverged", "talks.json:")])
def test_all_processes_stop_with_the_same_error(runs, name, said):
    first, second = ((runs / f"{name}.{rank}.error").read_text() for rank in (0, 1))
    assert first == second and said in first
