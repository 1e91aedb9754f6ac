"""Several processes over gloo train as one process with the same global batch does, whatever they share."""

import csv
import signal

import numpy as np
import pytest

from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.errors import PaddleMixError
from paddlemix.finetune import run
from paddlemix.finetune.configuration import FinetuneConfig
from paddlemix.finetune.monitoring import learning_curves
from tests.finetune.conversations import write_conversations
from tests.finetune.toy_training import LogKeeper
from tests.processes import run_processes

STEPS = 4
FULL = {"mode": "full", "freeze": []}
LORA = {"mode": "lora", "lora_r": 4, "lora_targets": ["c_attn", "w1", "in_proj"], "lora_dropout": 0.0}
SHARDED = {"sharding": "stage1"}
#: name -> options, and those that only several processes have
TRAININGS = {
    "full": (FULL, {}),
    "full-sharded": ({**FULL, "recompute": True}, SHARDED),
    "vision": ({"mode": "full", "freeze": ["freeze_llm", "freeze_vit"]}, {}),
    "lora": ({**LORA, "recompute": True}, {}),
    "lora-packed-sharded": ({**LORA, "packing": True, "max_length": 200}, SHARDED),
    "qlora-sharded": ({**LORA, "mode": "qlora", "quantization": "int4"}, SHARDED),
}
SPLIT = {"tensor_parallel_degree": 2}
#: name -> processes, options, and those that only several processes have, of models that are split or arranged in two
#: ways at once; a process is arranged once
ARRANGED = {
    "full-split": (2, {**FULL, "recompute": True}, SPLIT),
    "lora-split": (
        2,
        {**LORA, "lora_targets": ["c_attn", "attn.c_proj", "out_proj", "lm_head"], "packing": True},
        SPLIT,
    ),
    "qlora-split": (2, {**LORA, "mode": "qlora", "quantization": "int4"}, SPLIT),
    "full-split-sharded": (4, FULL, {**SPLIT, **SHARDED}),
    "lora-split-data": (4, LORA, SPLIT),
    "full-sharded-data": (4, FULL, {**SHARDED, "sharding_parallel_degree": 2}),
}
DROPOUT = {**LORA, "lora_dropout": 0.3, **SHARDED, "max_steps": 6}


@pytest.fixture(scope="module", autouse=True)
def no_drawing():
    """Drawing learning curves takes twice as long as all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_curves, "draw", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir):
    """Of the records and of all runs."""
    folder = tmp_path_factory.mktemp("runs")
    write_conversations(folder / "records", 8)
    return folder


@pytest.fixture(scope="module")
def options(folder, tiny_model_dir):
    """What all trainings have in common: 4 rows in each of 4 steps, in 2 micro-batches of 2 or 2 x 2 of 1."""
    records = str(folder / "records" / "talks.json")
    return {
        "data": records, "eval_data": records, "eval_samples": 0, "model_name_or_path": str(tiny_model_dir),
        "learning_rate": 1e-3, "max_length": 512, "max_steps": STEPS, "dataloader_num_workers": 0,
        "gradient_accumulation_steps": 2, "logging_steps": 1, "save_steps": 2, "visualdl": False, "device": "cpu",
    }  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(folder, options):
    """What the runs of two processes raised: by rank, name of the run -> the error's text."""
    trainings = {f"two-{name}": {**options, **both, **several} for name, (both, several) in TRAININGS.items()}
    dropout = {**options, **DROPOUT}
    begun = {**options, **FULL, "output_dir": str(folder / "begun"), "per_device_train_batch_size": 2}
    assert run_one({**begun, "interrupt_after": 3}).startswith("KeyboardInterrupt")
    trainings.update(
        {
            "begun": {**begun, "per_device_train_batch_size": 1},
            "whole": dropout,
            "cut": {**dropout, "interrupt_after": 3},
            "moved": {**options, **FULL, **SHARDED, "interrupt_after": 3},
            "cut again": {**dropout, "output_dir": str(folder / "cut")},
            "signalled": {**dropout, "save_steps": 100, "signal_after": 2},
            "signalled again": {**dropout, "save_steps": 100, "output_dir": str(folder / "signalled")},
            "refused": {**options, "data": str(folder / "no.json")},
            "diverged": {**options, **FULL, "learning_rate": 1e30, "max_grad_norm": 0.0},
        }
    )
    return run_processes(2, run_all, folder, trainings)


def run_all(folder, trainings):
    """Name of each training that raised an error -> its text."""
    failures = {}
    for name, values in trainings.items():
        failure = run_one({"output_dir": str(folder / name), **values})
        if failure is not None:
            failures[name] = failure
    return failures


def run_one(values):
    """Train; the text of the error that ended it."""
    interrupted, signalled = values.pop("interrupt_after", None), values.pop("signal_after", None)
    make_trainer = run.make_trainer

    def make_stopping(*arguments):
        trainer = make_trainer(*arguments)
        is_last = run.dist.get_rank() == run.dist.get_world_size() - 1
        note_images(trainer, f"{values['output_dir']}.images-{run.dist.get_rank()}")
        if interrupted is not None:
            trainer.add_callback(LogKeeper(interrupted))
        elif signalled is not None and is_last:  # to one process alone
            trainer.add_callback(LogKeeper(signalled, (signal.SIGTERM,)))
        return trainer

    run.make_trainer = make_stopping
    try:
        run.finetune(FinetuneConfig.from_dict(values))
    except (KeyboardInterrupt, PaddleMixError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        run.make_trainer = make_trainer
    return None


def note_images(trainer, path):
    """Write to a file, for each micro-batch of this process, whether it has images."""
    compute_loss = trainer.compute_loss

    def noting(model, inputs):
        with open(path, "a", encoding="utf-8") as file:
            file.write("1" if "images" in inputs else "0")
        return compute_loss(model, inputs)

    trainer.compute_loss = noting


def one_process(folder, options, name, both):
    """The folder of the same training in one process, with all rows of the others in its micro-batches."""
    output = folder / f"one-{name}"
    run.finetune(FinetuneConfig(**{**options, **both, "per_device_train_batch_size": 2, "output_dir": str(output)}))
    return output


def log(output):
    with open(output / "log.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("loss", "grad_norm", "learning_rate", "tokens", "eval_loss")
    return {name: [float(row[name]) for row in rows if row[name]] for name in columns}


def tensors(path):
    return {name: tensor.load().copy() for name, tensor in read_safetensors(path)[0].items()}


def result(output):
    (path,) = output.glob("*model.safetensors")
    return tensors(path)


@pytest.mark.parametrize("name", TRAININGS)
def test_losses_and_weights_are_those_of_one_process(folder, options, outcomes, name):
    assert not any(f"two-{name}" in failures for failures in outcomes), outcomes
    compare(one_process(folder, options, name, TRAININGS[name][0]), folder / f"two-{name}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if ARRANGED[name][0] > 2 or name == "qlora-split" else [])
        for name in ARRANGED
    ],
)
def test_split_models_and_two_arrangements_at_once_train_like_one_process(folder, options, name):
    processes, both, several = ARRANGED[name]
    replicas = processes // several.get("tensor_parallel_degree", 1)
    rows, accumulation = {1: (2, 2), 2: (1, 2), 4: (1, 1)}[replicas]
    batches = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    training = {f"several-{name}": {**options, **both, **several, **batches}}
    outcomes = run_processes(processes, run_all, folder, training)
    assert not any(outcomes), outcomes
    # of a split model sums have another order, which now and then turns the sign of a gradient that is nearly zero
    compare(one_process(folder, options, name, both), folder / f"several-{name}", most=2e-3)


def compare(one, two, most=2e-4):
    """The logs and weights of two runs."""
    expected, found = log(one), log(two)
    assert len(expected["loss"]) == STEPS
    for column, values in expected.items():
        rtol = {"loss": 2e-6, "eval_loss": 2e-6, "grad_norm": 2e-4}.get(column, 0)
        np.testing.assert_allclose(found[column], values, rtol=rtol, err_msg=column)
    expected, found = result(one), result(two)
    assert set(found) == set(expected)
    for tensor, values in expected.items():
        # AdamW makes a step of the size of the learning rate of the smallest difference, so weights agree less well
        np.testing.assert_allclose(found[tensor], values, rtol=0, atol=most, err_msg=tensor)
        assert np.abs(found[tensor] - values).mean() < 1e-6, tensor


def test_a_sharded_run_is_resumed_exactly(folder, outcomes):
    assert outcomes[0]["cut"].startswith("KeyboardInterrupt") and "cut again" not in outcomes[0]
    assert log(folder / "cut") == log(folder / "whole")
    expected, found = result(folder / "whole"), result(folder / "cut")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_one_process_goes_on_with_what_two_began(folder, options, outcomes):
    assert outcomes[0]["moved"].startswith("KeyboardInterrupt")
    alone = {**options, **FULL, "gradient_accumulation_steps": 4, "output_dir": str(folder / "moved")}
    run.finetune(FinetuneConfig(**alone))
    np.testing.assert_allclose(log(folder / "moved")["loss"], log(folder / "two-full")["loss"], rtol=2e-6)


def test_two_processes_go_on_with_what_one_began(folder, outcomes):
    assert not any("begun" in failures for failures in outcomes), outcomes
    np.testing.assert_allclose(log(folder / "begun")["loss"], log(folder / "two-full")["loss"], rtol=2e-6)


def test_only_one_process_has_a_gradient_of_some_micro_batches(folder, outcomes):
    first, second = ((folder / f"two-vision.images-{rank}").read_text() for rank in range(2))
    assert len(first) == len(second) == 2 * STEPS
    assert any(own != other for own, other in zip(first, second))


def test_all_processes_end_with_the_one_that_was_told_to_and_go_on_exactly(folder, outcomes):
    first, second = (failures["signalled"] for failures in outcomes)
    assert first == second and "stopped by SIGTERM after step 3 of" in first
    assert "signalled again" not in outcomes[0]
    assert log(folder / "signalled") == log(folder / "whole")


def test_each_process_keeps_its_part_of_the_optimizer_state(folder, outcomes):
    parts = sorted((folder / "two-full-sharded" / "checkpoint-2").glob("optimizer-*.safetensors"))
    assert [path.name for path in parts] == [f"optimizer-0000{rank}-of-00002.safetensors" for rank in range(2)]
    first, second = (tensors(path) for path in parts)
    assert not set(first) & set(second)
    sizes = [sum(values.size for values in part.values()) for part in (first, second)]
    assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.parametrize(("name", "said"), [("refused", "no.json"), ("diverged", "talks.json:")])
def test_all_processes_stop_with_the_same_error(outcomes, name, said):
    first, second = (failures[name] for failures in outcomes)
    assert first == second and said in first
