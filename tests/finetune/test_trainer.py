"""The trainer on a toy model: losses and steps, exact resume, and what stops it."""

import math
import signal

import numpy as np
import paddle
import pytest

from paddlemix.errors import TrainingError, TrainingInterruptedError
from paddlemix.finetune.checkpoints import newest_checkpoint
from tests.finetune.toy_training import ToyData, ToyModel, load_toy, toy_trainer, weights_of


def test_the_loss_of_a_step_is_the_mean_over_its_batches(tmp_path):
    one, keeper_one = toy_trainer(tmp_path / "one", ToyData(accumulation=1, rows=4), model=_dry())
    one.train()
    two, keeper_two = toy_trainer(tmp_path / "two", ToyData(accumulation=2, rows=2), model=_dry())
    two.train()
    np.testing.assert_allclose([log["loss"] for log in keeper_two.logs], [log["loss"] for log in keeper_one.logs], 1e-5)
    assert [log["tokens"] for log in keeper_two.logs] == [100, 201, 303, 406, 510, 615]
    expected = [0.05 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert [log["learning_rate"] for log in keeper_two.logs] == pytest.approx(expected)


def _dry():
    paddle.seed(0)
    return ToyModel(dropout=0.0)


@pytest.mark.parametrize(
    "signals", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM, signal.SIGTERM)]
)
def test_a_signal_ends_the_training_with_a_checkpoint_to_go_on_from_exactly(tmp_path, signals, capfd):
    data, options = ToyData(steps=7), {"save_steps": 100, "logging_steps": 3}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    whole, expected = toy_trainer(tmp_path / "whole", data, **options)
    loss = whole.train()
    cut, before = toy_trainer(tmp_path / "cut", data, stop_after=3, signals=signals, **options)
    said = f"cut: stopped by {signals[0].name} after step 4 of 7; checkpoint-4 is written"
    with pytest.raises(TrainingInterruptedError, match=said) as caught:
        cut.train()
    assert caught.value.signal == signals[0]
    assert "stopping after this step" in capfd.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    checkpoint = newest_checkpoint(tmp_path / "cut")
    assert checkpoint.name == "checkpoint-4"
    paddle.seed(99)
    resumed, after = toy_trainer(tmp_path / "cut", data, model=ToyModel(), **options)
    assert resumed.train(checkpoint) == loss
    assert before.logs + after.logs == expected.logs
    for name, values in weights_of(whole.model).items():
        np.testing.assert_array_equal(weights_of(resumed.model)[name], values, err_msg=name)


def test_a_second_interrupt_ends_the_training_at_once(tmp_path):
    signals = (signal.SIGINT, signal.SIGINT)
    cut, _ = toy_trainer(tmp_path, ToyData(steps=7), stop_after=3, signals=signals, save_steps=100)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert newest_checkpoint(tmp_path) is None


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    trainer, _ = toy_trainer(tmp_path, ToyData(steps=4), stop_after=3, signals=(signal.SIGTERM,))
    trainer.train()
    assert trainer.state.global_step == 4


def test_an_evaluation_that_an_interruption_left_out_is_made_on_resuming(tmp_path):
    def evaluating(steps):
        return lambda: steps.append(len(steps)) or {"eval_loss": 1.0}

    data, first, second = ToyData(steps=6), [], []
    options = {"eval_steps": 2, "save_steps": 100}
    cut, _ = toy_trainer(tmp_path, data, stop_after=3, signals=(signal.SIGINT,), evaluate=evaluating(first), **options)
    with pytest.raises(TrainingInterruptedError):
        cut.train()
    assert len(first) == 1  # after step 2, not after step 4
    resumed, _ = toy_trainer(tmp_path, data, evaluate=evaluating(second), **options)
    resumed.train(newest_checkpoint(tmp_path))
    assert len(second) == 2  # after steps 4 and 6


def test_the_gradient_is_shortened_to_the_norm(tmp_path):
    data = ToyData(steps=1)
    free, free_log = toy_trainer(tmp_path / "free", data, max_grad_norm=0.0)
    free.train()
    norm = free_log.logs[0]["grad_norm"]
    # AdamW's first step hardly depends on the gradient's length, its second moment does
    short, _ = toy_trainer(tmp_path / "short", data, max_grad_norm=norm / 4)
    short.train()
    second = next(iter(short.optimizer._accumulators["moment2"].values())).numpy()
    expected = next(iter(free.optimizer._accumulators["moment2"].values())).numpy() / 16
    np.testing.assert_allclose(second, expected, rtol=1e-4)


@pytest.mark.parametrize("logging_steps", [1, 3])
def test_an_interrupted_training_goes_on_with_the_same_losses(tmp_path, logging_steps):
    data = ToyData(steps=7)
    whole, expected = toy_trainer(tmp_path / "whole", data, logging_steps=logging_steps)
    loss = whole.train()
    cut, before = toy_trainer(tmp_path / "cut", data, logging_steps=logging_steps, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    checkpoint = newest_checkpoint(tmp_path / "cut")
    assert checkpoint.name == "checkpoint-4"
    paddle.seed(99)  # whatever this process had drawn so far must not matter
    resumed, after = toy_trainer(tmp_path / "cut", data, model=ToyModel(), logging_steps=logging_steps)
    assert resumed.train(checkpoint) == loss
    first = 4 // logging_steps
    assert before.logs[:first] + after.logs == expected.logs
    for name, values in weights_of(whole.model).items():
        np.testing.assert_array_equal(weights_of(resumed.model)[name], values, err_msg=name)
    assert resumed.state.epoch == whole.state.epoch == 7 / 4


def test_a_step_in_which_nothing_that_is_trained_took_part_has_zero_gradients(tmp_path):
    model = ToyModel()
    for layer in (model.first, model.second):
        for parameter in layer.parameters():
            parameter.stop_gradient = True
    before = {name: value.copy() for name, value in weights_of(model).items()}
    trainer, log = toy_trainer(tmp_path, ToyData(steps=1), model=model, weight_decay=0.0)
    trainer.train()
    assert log.logs[0]["grad_norm"] == 0 and log.logs[0]["loss"] > 0
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_dropout_is_at_work_in_these_tests(tmp_path):
    first, log = toy_trainer(tmp_path / "first", ToyData(steps=1), seed=3)
    first.train()
    second, other = toy_trainer(tmp_path / "second", ToyData(steps=1), seed=4)
    second.train()
    assert log.logs[0]["loss"] != other.logs[0]["loss"]


def test_evaluating_does_not_change_the_training(tmp_path):
    calls = []

    def evaluate():
        calls.append(float(paddle.rand([1])))
        return {"eval_loss": 1.0}

    plain, expected = toy_trainer(tmp_path / "plain", ToyData())
    plain.train()
    watched, found = toy_trainer(tmp_path / "watched", ToyData(), evaluate=evaluate, eval_steps=4)
    watched.train()
    assert len(calls) == 2 and watched.metrics == {"eval_loss": 1.0}  # after step 4 and at the end
    assert found.logs == expected.logs


def test_a_training_is_evaluated_before_its_first_step_but_not_when_it_goes_on(tmp_path):
    steps = []

    def evaluate():
        steps.append(trainer.state.global_step)
        return {"eval_loss": 1.0}

    options = {"evaluate": evaluate, "eval_on_start": True}
    trainer, _ = toy_trainer(tmp_path, ToyData(), stop_after=4, **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert steps == [0]
    trainer, _ = toy_trainer(tmp_path, ToyData(), **options)
    trainer.train(newest_checkpoint(tmp_path))
    assert steps == [0, trainer.data.steps]


def test_resuming_after_the_last_step_has_the_metrics_of_its_evaluation(tmp_path, caplog):
    def train(checkpoint=None, **options):
        trainer, _ = toy_trainer(tmp_path, ToyData(steps=4), **options)
        trainer.train(checkpoint)
        return trainer.metrics

    last = tmp_path / "checkpoint-4"
    assert train(evaluate=lambda: {"eval_loss": 1.0}) == {"eval_loss": 1.0}
    assert train(last, evaluate=lambda: {"eval_loss": 2.0}) == {"eval_loss": 1.0}
    assert train(last) == {}
    train()
    caplog.clear()
    assert train(last, evaluate=lambda: {"eval_loss": 3.0}) == {"eval_loss": 3.0}
    assert "changing accumulation" not in caplog.text


def test_a_loss_that_is_not_a_number_names_step_and_records_and_changes_nothing(tmp_path):
    data = ToyData(steps=6, poison=14)  # step 4: samples 12 13, 14 15
    trainer, _ = toy_trainer(tmp_path, data, save_steps=3)
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    message = str(caught.value)
    assert (
        "step 4: the loss is nan" in message and "toy.json:14, toy.json:15" in message and "toy.json:12" not in message
    )
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    saved = ToyModel()
    load_toy(saved, tmp_path / "checkpoint-3")
    for name, values in weights_of(trainer.model).items():
        np.testing.assert_array_equal(values, weights_of(saved)[name], err_msg=name)
    assert trainer.state.global_step == 3


def test_a_gradient_that_is_not_finite_stops_before_the_optimizer(tmp_path):
    paddle.seed(0)
    model = ToyModel(dropout=0.0)
    forward = model.forward

    def steep(x, y):
        # the square root of zero adds nothing to the loss, and has no gradient
        loss = forward(x, y)["loss"]
        return {"loss": loss if trainer.state.global_step < 2 else loss + (model.second.bias * 0).sum().sqrt()}

    model.forward = steep
    trainer, _ = toy_trainer(tmp_path, ToyData(), model=model)
    with pytest.raises(TrainingError, match=r"step 3: the loss is .*, the norm of its gradient nan.*toy.json"):
        trainer.train()
    for values in weights_of(model).values():
        assert np.isfinite(values).all()


def test_a_model_without_trained_parameters_is_refused(tmp_path):
    model = ToyModel()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with pytest.raises(TrainingError, match="nothing is trained"):
        toy_trainer(tmp_path, ToyData(), model=model)


def test_vectors_do_not_decay(tmp_path):
    model = ToyModel()
    trainer, _ = toy_trainer(tmp_path, ToyData(), model=model, weight_decay=0.1)
    trainer.create_optimizer_and_scheduler(6)
    decays = trainer.optimizer._apply_decay_param_fun
    assert decays(model.first.weight.name) and not decays(model.first.bias.name)
