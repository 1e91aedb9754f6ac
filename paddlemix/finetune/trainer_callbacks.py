"""Callbacks that tell PaddleNLP's ``Trainer`` when to log, evaluate, save and stop."""

from __future__ import annotations

from typing import Any, Protocol

from paddlenlp.trainer import TrainerCallback

from .training_data import TrainingData


class ControlledTrainer(Protocol):
    """What the callbacks use of the trainer.

    Attributes:
        evaluation_pending: the training ended at a step whose evaluation was skipped.
    """

    evaluation_pending: bool

    @property
    def is_stopping(self) -> bool:
        """Whether the training ends with this step on request."""

    def before_optimizer(self) -> None:
        """Validate and clip the gradients."""

    def evaluate(self) -> dict[str, float]:
        """Metrics of the model as it is now."""


class StepControlCallback(TrainerCallback):
    """Checks the gradients of each step, and sets its epoch and what follows it.

    Args:
        data: the batches of the training.
        eval_steps: optimizer steps between evaluations; None: never.
    """

    trainer: ControlledTrainer

    def __init__(self, data: TrainingData, eval_steps: int | None) -> None:
        self.data = data
        self.eval_steps = eval_steps

    def on_optimizer_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the gradients, which are averaged over the processes by now."""
        self.trainer.before_optimizer()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log after the last step, evaluate at the interval, save and stop on request."""
        step = state.global_step
        state.epoch = self.data.epochs(step)
        is_last = step == self.data.steps
        if is_last:
            control.should_log = True
        is_stopping = self.trainer.is_stopping and not is_last
        if self.eval_steps is not None and (is_last or step % self.eval_steps == 0):
            control.should_evaluate = not is_stopping
            self.trainer.evaluation_pending = is_stopping
        if is_stopping:
            control.should_save = control.should_training_stop = True


class InitialEvaluationCallback(TrainerCallback):
    """Evaluates before the first step, and on resuming where an interruption left an evaluation out.

    It comes after the callbacks that are to receive the metrics.

    Args:
        eval_on_start: whether to evaluate before the first step.
    """

    trainer: ControlledTrainer

    def __init__(self, eval_on_start: bool) -> None:
        self.eval_on_start = eval_on_start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate if due."""
        if (self.eval_on_start and state.global_step == 0) or self.trainer.evaluation_pending:
            self.trainer.evaluate()
