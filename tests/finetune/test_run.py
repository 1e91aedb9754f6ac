"""Whole runs on a tiny model: from a file of conversations to an adapter or a model, interrupted and resumed."""

import csv
import json
import shutil

import numpy as np
import paddle
import pytest
from paddlenlp.trainer import TrainerCallback

from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.errors import AdapterError, CheckpointError, ConfigurationError, ImageError, RecordError, TrainingError
from paddlemix.finetune import run as run_module
from paddlemix.finetune.configuration import FinetuneConfig
from paddlemix.finetune.run import check, finetune
from paddlemix.inference import load_model
from tests.finetune.conversations import write_conversations
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("data"), 10)


@pytest.fixture
def configure(tiny, talks, tmp_path):
    """A configuration of a few quick steps, with changes."""

    def make(**options):
        return FinetuneConfig(
            **{
                "data": str(talks),
                "output_dir": str(tmp_path / "out"),
                "model_name_or_path": str(tiny),
                "max_length": 256,
                "learning_rate": 1e-3,
                "per_device_train_batch_size": 2,
                "dataloader_num_workers": 0,
                "logging_steps": 1,
                "visualdl": False,
                **({} if options.get("mode") == "full" else {"lora_r": 4}),
                **options,
            }
        )

    return make


def tensors(path):
    return {name: tensor.load().copy() for name, tensor in read_safetensors(path)[0].items()}


def log_rows(folder, *columns):
    with open(folder / "log.csv", encoding="utf-8") as file:
        return [[row[column] for column in columns] for row in csv.DictReader(file)]


def test_lora_writes_an_adapter_that_loads(configure, tmp_path, tiny):
    said = []
    result = finetune(configure(eval_fraction=0.2, eval_samples=1), said.append)
    assert result.output_dir == tmp_path / "out"
    assert {"train_loss", "eval_loss"} <= set(result.metrics)
    assert "10 records" in said[1] and "train_loss" in said[-1]
    loaded = load_model(tiny, adapter=result.output_dir)
    assert any(name.endswith("lora_A") for name, _ in loaded.model.named_parameters())
    stored = tensors(result.output_dir / "adapter_model.safetensors")
    assert any(np.abs(values).max() > 0 for name, values in stored.items() if "lora_B" in name)


def test_full_writes_a_complete_model_with_what_is_frozen_unchanged(configure, tmp_path, tiny):
    result = finetune(configure(mode="full"))
    loaded = load_model(result.output_dir)
    assert loaded.new_session().ask("?").text is not None
    before, after = tensors(tiny / "model.safetensors"), tensors(result.output_dir / "model.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "transformer.h.0.attn.c_attn.weight" in changed and "transformer.visual.attn_pool.kv_proj.weight" in changed
    assert not any(name.startswith("transformer.visual.transformer.") for name in changed)
    for name in ("qwen.tiktoken", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        assert (result.output_dir / name).is_file()


def test_qlora_trains_an_adapter_on_a_quantized_model(configure, tiny):
    result = finetune(configure(mode="qlora", quantization="int8", max_steps=2))
    adapter = json.loads((result.output_dir / "adapter_config.json").read_text())
    assert adapter["r"] == 4
    assert load_model(tiny, quantization="int8", adapter=result.output_dir).model is not None


def test_a_quantized_model_is_trained_in_mode_qlora_only(configure, tiny, tmp_path):
    load_model(tiny, quantization="int8").model.save_pretrained(tmp_path / "int8")
    for name in ("qwen.tiktoken", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(tiny / name, tmp_path / "int8")
    with pytest.raises(ConfigurationError, match="is quantized; use mode qlora"):
        finetune(configure(model_name_or_path=str(tmp_path / "int8")))
    assert finetune(configure(model_name_or_path=str(tmp_path / "int8"), mode="qlora", max_steps=1)).metrics


class _Killer(TrainerCallback):
    """Ends the process, so to say, in the middle of a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options",
    [
        {"lora_dropout": 0.3, "modules_to_save": ["wte"], "packing": True, "dataloader_num_workers": 1},
        {"mode": "full", "recompute": True, "eval_fraction": 0.2, "eval_steps": 3, "eval_samples": 1},
    ],
    ids=["lora", "full"],
)
def test_an_interrupted_run_ends_as_the_uninterrupted_one(configure, tmp_path, monkeypatch, options):
    options = {
        **options,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "save_steps": 3,
    }
    finetune(configure(output_dir=str(tmp_path / "whole"), **options))
    original = run_module.make_trainer

    def with_killer(*args):
        trainer = original(*args)
        trainer.add_callback(_Killer(4))
        return trainer

    monkeypatch.setattr(run_module, "make_trainer", with_killer)
    with pytest.raises(KeyboardInterrupt):
        finetune(configure(output_dir=str(tmp_path / "cut"), **options))
    monkeypatch.undo()
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    paddle.seed(123)
    assert (tmp_path / "cut" / "checkpoint-3").is_dir()  # in the middle of an epoch
    finetune(configure(output_dir=str(tmp_path / "cut"), **options))
    columns = ("step", "epoch", "loss", "learning_rate", "tokens", "grad_norm")
    rows = log_rows(tmp_path / "whole", *columns)
    assert len(rows) > 4 and log_rows(tmp_path / "cut", *columns) == rows
    (result,) = (tmp_path / "whole").glob("*model.safetensors")
    expected, found = tensors(result), tensors(tmp_path / "cut" / result.name)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_run_killed_before_its_result_is_written_ends_as_the_uninterrupted_one(configure, tmp_path, monkeypatch):
    options = {"eval_fraction": 0.2, "eval_samples": 0, "max_steps": 2, "save_steps": 1}
    expected = finetune(configure(output_dir=str(tmp_path / "whole"), **options)).metrics
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_module, "write_result", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        finetune(configure(**options))
    assert finetune(configure(**options)).metrics == expected and "eval_loss" in expected
    columns = ("step", "loss", "eval_loss")
    assert log_rows(tmp_path / "out", *columns) == log_rows(tmp_path / "whole", *columns)


def test_a_second_run_in_the_same_directory_is_refused_and_disturbs_nothing(configure, monkeypatch):
    original, refusals = run_module.make_trainer, []

    def with_another_run(*args):
        with monkeypatch.context() as second:
            second.setattr(run_module, "make_trainer", None)
            with pytest.raises(CheckpointError, match="another process is writing here") as caught:
                finetune(configure(max_steps=1))
        refusals.append(caught)
        return original(*args)

    monkeypatch.setattr(run_module, "make_trainer", with_another_run)
    result = finetune(configure(max_steps=1))
    assert refusals and (result.output_dir / "adapter_config.json").is_file()
    assert not (result.output_dir / ".lock").exists()


def test_a_finished_training_is_left_as_it_is(configure, monkeypatch):
    result = finetune(configure(max_steps=1))
    monkeypatch.setattr(run_module, "make_trainer", None)
    assert finetune(configure(max_steps=1)) == result


def test_other_data_in_the_same_directory_is_refused(configure, tmp_path, talks, monkeypatch):
    copy = tmp_path / "data"
    shutil.copytree(talks.parent, copy)
    monkeypatch.setattr(run_module, "make_trainer", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune(configure(data=str(copy / talks.name)))
    records = json.loads((copy / talks.name).read_text(encoding="utf-8"))
    (copy / talks.name).write_text(json.dumps(records[:-1]), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="data: the records are not those"):
        finetune(configure(data=str(copy / talks.name)))


@pytest.fixture
def with_bad_record(talks, tmp_path):
    copy = tmp_path / "bad"
    shutil.copytree(talks.parent, copy)
    records = json.loads((copy / talks.name).read_text(encoding="utf-8"))
    records[4]["conversations"][0]["value"] = "Picture 1: <img>missing.png</img>\nWhat is it?"
    (copy / talks.name).write_text(json.dumps(records, indent=1), encoding="utf-8")
    return copy / talks.name


def test_bad_records_stop_the_run_before_it_begins(configure, with_bad_record, tmp_path):
    said = []
    with pytest.raises(RecordError, match="missing.png"):
        finetune(configure(data=str(with_bad_record)), said.append)
    assert said[0] == "checking 10 records"
    assert "missing.png" in said[1] and not (tmp_path / "out").exists()
    assert [report.bad_records for report in check(configure(data=str(with_bad_record)))] == [1]


def test_training_records_may_be_those_of_the_evaluation(configure, talks, tmp_path):
    config = configure(eval_data=str(talks), eval_samples=1, max_steps=1)
    assert [len(report.records) for report in check(config)] == [10, 10]
    assert "eval_loss" in finetune(config).metrics


def test_skipped_records_are_recorded(configure, with_bad_record, tmp_path):
    finetune(configure(data=str(with_bad_record), bad_records="skip", max_steps=1))
    assert "missing.png" in (tmp_path / "out" / "bad_records.txt").read_text(encoding="utf-8")


def test_a_list_of_skipped_records_that_cannot_be_written_is_told_in_one_line(configure, with_bad_record, tmp_path):
    (tmp_path / "out" / "bad_records.txt").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="bad_records.txt: cannot be written: [^\n]+$"):
        finetune(configure(data=str(with_bad_record), bad_records="skip", max_steps=1))


def test_a_target_that_matches_nothing_is_refused_before_anything_is_written(configure, tmp_path):
    with pytest.raises(AdapterError, match="lora_targets: 'q_proj' matches no linear layer"):
        finetune(configure(lora_targets=["q_proj"]))
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_names_step_and_lines_and_writes_no_result(configure, talks, tmp_path):
    with pytest.raises(TrainingError) as caught:
        finetune(configure(learning_rate=1e30, warmup_ratio=0.0, max_steps=5, max_grad_norm=0.0))
    assert "step 2" in str(caught.value) and f"{talks}:" in str(caught.value)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_image_that_goes_in_the_middle_is_told_with_its_record(configure, with_bad_record, monkeypatch):
    folder = with_bad_record.parent
    shutil.copy(next(folder.glob("*.png")), folder / "missing.png")
    original = run_module.make_trainer

    def gone(*args):
        (folder / "missing.png").unlink()
        return original(*args)

    monkeypatch.setattr(run_module, "make_trainer", gone)
    with pytest.raises(ImageError, match=r"talks.json:\d+.*missing.png"):
        finetune(configure(data=str(with_bad_record)))
