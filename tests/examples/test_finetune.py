"""examples/qwen_vl/finetune.py as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from paddlemix.finetune.configuration import FinetuneConfig
from tests.examples.conftest import EXAMPLES
from tests.finetune.conversations import write_conversations
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_conversations(folder, 4)
    write_tiny_model(folder / "tiny")
    return folder


@pytest.mark.parametrize("name", ["finetune_lora.json", "finetune_qlora.json", "finetune_full.json"])
def test_the_sample_files_are_good(name):
    config = FinetuneConfig.from_file(EXAMPLES / name, {"data": "talks.json", "output_dir": "out"})
    assert config.mode in name and config.learning_rate == 1e-5


def test_a_file_and_options_make_an_adapter(run_example, folder, tmp_path):
    config = folder / "config.json"
    config.write_text(json.dumps({"data": str(folder / "talks.json"), "model_name_or_path": str(folder / "tiny")}))
    done = run_example("finetune.py", config, "--output_dir", tmp_path / "out", "--max_steps", "1", "--lora_r", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
    assert "train_loss" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_with_a_checkpoint_and_a_line_that_says_where(folder, tmp_path):
    options = [
        "--data",
        folder / "talks.json",
        "--model_name_or_path",
        folder / "tiny",
        "--output_dir",
        tmp_path / "out",
    ]
    options += ["--max_steps", "100000", "--logging_steps", "1", "--lora_r", "2", "--dataloader_num_workers", "2"]
    command = [sys.executable, EXAMPLES / "finetune.py", *options]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in process.stderr:
            if line.lstrip().startswith("1/100000"):
                break
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130, said
    finally:
        process.kill()
        process.stderr.close()
    checkpoints = [path.name for path in (tmp_path / "out").glob("checkpoint-*")]
    assert len(checkpoints) == 1 and f"{checkpoints[0]} is written" in said
    assert "Traceback" not in said and "Error" not in said


def test_check_only_looks_at_the_settings_of_the_model(run_example, folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(folder / "tiny", model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "hidden_size": "192"}))
    options = ("--data", folder / "talks.json", "--output_dir", tmp_path / "out", "--model_name_or_path", model)
    done = run_example("finetune.py", *options, "--check-only")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "hidden_size" in done.stderr and "config.json" in done.stderr


def test_check_only_lists_all_that_is_wrong_and_trains_nothing(run_example, folder, tmp_path):
    records = json.loads((folder / "talks.json").read_text(encoding="utf-8"))
    records += [{"conversations": []}] * 60
    (folder / "bad.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    arguments = ("--data", folder / "bad.json", "--output_dir", tmp_path / "out", "--check_only")
    done = run_example("finetune.py", *arguments, "--model_name_or_path", folder / "tiny")
    assert done.returncode == 1 and "4 records" in done.stdout and "60 are not" in done.stdout
    assert done.stdout.count("bad.json:") == 60
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--lora_rank=3", "--lora_rank: unknown option; did you mean lora_r?"),
        ("-x", "'-x': unexpected on the command line; options begin with --"),
    ],
)
def test_what_is_no_option_is_told_with_the_nearest_one(run_example, word, said):
    done = run_example("finetune.py", "config.json", word)
    assert (done.returncode, done.stderr) == (2, f"error: {said} (--help lists the options)\n")
