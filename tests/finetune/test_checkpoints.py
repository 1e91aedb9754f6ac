"""Checkpoints are whole or not there, hold no pickles, and are refused by other trainings."""

import json
import os
import random
import shutil

import numpy as np
import paddle
import pytest

from paddlemix.errors import CheckpointError, TrainingError
from paddlemix.finetune import checkpoints
from paddlemix.finetune.checkpoints import newest_checkpoint, remove_incomplete_checkpoints, remove_old_checkpoints
from paddlemix.finetune.randomness import random_state, set_random_state
from tests.finetune.toy_training import ToyData, ToyModel, load_toy, toy_trainer, weights_of


def names(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a toy training with its last two checkpoints, of steps 4 and 6; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    trainer, _ = toy_trainer(folder, ToyData(steps=6))
    trainer.train()
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of ``finished``."""
    return shutil.copytree(finished, tmp_path / "run")


def test_only_the_newest_checkpoints_are_kept(trained):
    assert names(trained) == ["checkpoint-4", "checkpoint-6"]
    remove_old_checkpoints(trained, 1)
    assert names(trained) == ["checkpoint-6"]


def test_the_newest_is_the_one_of_the_latest_step_not_of_the_latest_name(tmp_path):
    for step in (9, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-200.writing").mkdir()
    (tmp_path / "checkpoint-300.removing").mkdir()
    assert newest_checkpoint(tmp_path).name == "checkpoint-100"
    remove_incomplete_checkpoints(tmp_path)
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_is_safetensors_and_json(trained):
    kinds = {path.suffix for path in (trained / "checkpoint-6").iterdir()}
    assert kinds == {".safetensors", ".json"}
    for path in (trained / "checkpoint-6").glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("moment", ["_save_weights", "write_safetensors", "write_json", "publish"])
def test_killed_while_saving_the_previous_checkpoint_stays_good(tmp_path, monkeypatch, moment):
    trainer, _ = toy_trainer(tmp_path, ToyData(steps=6))

    def die_at_step_4(*args, **kwargs):
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    where = trainer if moment == "_save_weights" else checkpoints
    original = getattr(where, moment)
    monkeypatch.setattr(where, moment, die_at_step_4)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4.writing"]
    again, keeper = toy_trainer(tmp_path, ToyData(steps=6))
    again.train(newest_checkpoint(tmp_path))
    assert len(keeper.logs) == 4 and names(tmp_path) == ["checkpoint-4", "checkpoint-6"]


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    trainer, _ = toy_trainer(tmp_path, ToyData(steps=2))
    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(CheckpointError, match="checkpoint-2: cannot be written: No space left on device"):
        trainer.train()


def test_a_checkpoint_of_another_geometry_is_refused_and_names_the_parameter(trained):
    model = ToyModel()
    model.second = paddle.nn.Linear(16, 5)
    trainer, _ = toy_trainer(trained, ToyData(steps=6), model=model)
    with pytest.raises(TrainingError, match=r"second.weight has shape \[16, 3\] there, \[16, 5\] here"):
        trainer.train(trained / "checkpoint-4")


def test_a_checkpoint_with_other_trained_parameters_is_refused(trained):
    model = ToyModel()
    model.first.weight.stop_gradient = True
    trainer, _ = toy_trainer(trained, ToyData(steps=6), model=model)
    with pytest.raises(TrainingError, match=r"first.weight has shape \[6, 16\] there, None here"):
        trainer.train(trained / "checkpoint-4")


def test_a_checkpoint_of_a_longer_training_is_refused(trained):
    trainer, _ = toy_trainer(trained, ToyData(steps=5))
    with pytest.raises(TrainingError, match="is of step 6, this training has 5"):
        trainer.train(trained / "checkpoint-6")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("training_state.json", "{}", "missing or not understood"),
        ("training_state.json", "[]", "expected a JSON object"),
        ("trainer_state.json", '{"unknown_field": 1}', "state is damaged"),
        ("random_state-00000.json", '{"python": [3, [1], null]}', "not a state of random generators"),
        ("random_state-00000.json", None, "random_state-00000.json: missing"),
        ("optimizer.safetensors", "\0\0", "truncated or not a safetensors file"),
        ("optimizer.safetensors", None, "optimizer.safetensors"),
    ],
)
def test_damaged_files_are_named(trained, file, content, said):
    path = trained / "checkpoint-4" / file
    os.remove(path)
    if content is not None:
        path.write_text(content, encoding="utf-8")
    trainer, _ = toy_trainer(trained, ToyData(steps=6))
    with pytest.raises((TrainingError, CheckpointError), match=said):
        trainer.train(trained / "checkpoint-4")


def test_an_optimizer_of_other_parameters_is_refused(trained, tmp_path):
    other, _ = toy_trainer(tmp_path / "other", ToyData(steps=2), model=_Renamed())
    other.train()
    shutil.copy(tmp_path / "other" / "checkpoint-2" / "optimizer.safetensors", trained / "checkpoint-4")
    trainer, _ = toy_trainer(trained, ToyData(steps=6))
    with pytest.raises(TrainingError, match="the file is of another run"):
        trainer.train(trained / "checkpoint-4")


class _Renamed(ToyModel):
    def __init__(self):
        super().__init__()
        self.more = paddle.nn.Linear(2, 2)


def test_all_generators_go_on_where_they_were():
    state = json.loads(json.dumps(random_state()))
    dropout, ones = paddle.nn.Dropout(0.5), paddle.ones([50])

    def draw():
        return (
            random.random(),
            np.random.rand(),
            np.random.standard_normal(),
            paddle.rand([3]).tolist(),
            dropout(ones).tolist(),
        )

    expected = draw()
    assert draw() != expected
    set_random_state(state, "here")
    assert draw() == expected


def test_states_of_16_bit_weights_are_kept_in_float32_with_their_master_copies(tmp_path):
    model = paddle.nn.Linear(4, 3)
    model.to(dtype="bfloat16")
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters(), multi_precision=True)
    tensors = checkpoints.optimizer_tensors(optimizer, dict(model.named_parameters()))
    assert {name for name in tensors if "weight" in name} >= {"moment1.weight", "moment2.weight", "master.weight"}
    assert {tensor.dtype for tensor in tensors.values()} == {paddle.float32}
    np.testing.assert_array_equal(tensors["master.weight"].numpy(), model.weight.astype("float32").numpy())


def test_training_from_a_checkpoint_gives_the_weights_that_were_saved(trained):
    model = ToyModel()
    trainer, _ = toy_trainer(trained, ToyData(steps=6), model=model)
    trainer.train(trained / "checkpoint-6")  # nothing is left to do
    fresh = ToyModel()
    load_toy(fresh, trained / "checkpoint-6")
    for name, values in weights_of(fresh).items():
        np.testing.assert_array_equal(weights_of(model)[name], values)
