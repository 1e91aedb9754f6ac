"""PaddleNLP's ``Trainer``, fed by a plan, with checkpoints that can be trusted.

What differs from the base class: batches come from a plan of the whole training, so that resuming skips nothing and
reads nothing twice; a loss or gradient that is not finite stops the training before the optimizer has touched a weight;
processes exchange gradients through :class:`~.exchange.Exchange`; checkpoints are those of ``checkpoints.py``, without
pickles.
"""

from __future__ import annotations

import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import paddle
import paddle.nn as nn
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.trainer.trainer_callback import TrainerState

from ..errors import TrainingError, TrainingInterruptedError
from .checkpoints import drop_old, load_state, read_progress, save_state, writing_checkpoint
from .data_parallel import Exchange
from .interruption import StopRequest, stop_on_signals
from .randomness import paddle_state, seed_everything, set_paddle_state

# How many records a message names.
_NAMED = 5
RECORD_IDS = "record_ids"
_TRAINER_STATE = "trainer_state.json"


class TrainingData(ABC):
    """What is learned in which step. Optimizer steps count from 0 over the whole training.

    Attributes:
        steps: of the training.
        accumulation: forward passes of each process in a step.
    """

    steps: int
    accumulation: int

    @abstractmethod
    def loader(self, first_step: int) -> Collection[dict[str, paddle.Tensor]]:
        """This process's batches from ``first_step`` to the end, ``accumulation`` of them for each step.

        A batch is a dict of the arguments of the model, whose results hold ``loss``; the mean of these over the passes
        and the processes is the loss of the step. ``record_ids``, int64, may come on top, for :meth:`places`.
        """

    @abstractmethod
    def tokens(self, step: int) -> int:
        """Tokens that all processes are fed in a step, padding left out."""

    @abstractmethod
    def epochs(self, step: int) -> float:
        """Passes over the data that the first ``step`` steps make."""

    @abstractmethod
    def places(self, record_ids: Sequence[int]) -> list[str]:
        """Where these records stand, for messages."""


class FinetuneTrainer(Trainer):
    """Trains ``model`` where ``stop_gradient`` is false.

    Args:
        model: called with a batch, it returns a dict with ``loss``.
        args: see :func:`training_arguments`.
        save_weights, load_weights: write the weights into a folder, and read them from there. The first process alone
            writes; all of them read.
        evaluate: returns metrics; called by every process.
        eval_steps: steps between evaluations; None: only after the last step. Without ``evaluate`` no effect.
        eval_on_start: evaluate before the first step as well, likewise.
        sharding, sharded_layers: see :class:`~.exchange.Exchange`.
    """

    def __init__(
        self,
        model: nn.Layer,
        args: TrainingArguments,
        data: TrainingData,
        *,
        save_weights: Callable[[Path], object],
        load_weights: Callable[[Path], object],
        callbacks: Sequence[TrainerCallback] = (),
        evaluate: Callable[[], dict[str, float]] | None = None,
        eval_steps: int | None = None,
        eval_on_start: bool = False,
        sharding: str | None = None,
        sharded_layers: Sequence[nn.Layer] = (),
    ) -> None:
        self.data = data
        self.metrics: dict[str, float] = {}
        self._evaluate = evaluate
        self._save_weights, self._load_weights = save_weights, load_weights
        self._first_step = 0
        self._passes: list[tuple[paddle.Tensor, Any]] = []  # loss and record ids of each forward pass of the step
        self._window: list[float] = []  # losses of the steps since the last log
        self._loss_sum, self._tokens, self._gradient_norm = 0.0, 0, math.nan
        self._step_learning_rate = 0.0
        self._stop = StopRequest()
        self._stop_agreed = False  # by all processes, in this step
        self.evaluation_owed = False  # the training ended where one was due
        pacing = _Pacing(data, None if evaluate is None else eval_steps or data.steps)
        opening = _Opening(evaluate is not None and eval_on_start)
        super().__init__(
            model=model, args=args, train_dataset=_Sized(data.steps), callbacks=[pacing, *callbacks, opening]
        )  # fmt: skip
        pacing.trainer = opening.trainer = self
        self.exchange = Exchange(model, sharding, sharded_layers)
        seed_everything(args.seed, self.exchange.rank)

    # ------------------------------------------------------------------------------------------------ a step

    def get_train_dataloader(self) -> Collection[dict[str, paddle.Tensor]]:
        return self.data.loader(self._first_step)

    def create_optimizer(self, lr_scheduler: Any = None) -> paddle.optimizer.AdamW:
        """AdamW over what this process owns; the state is float32, also that of 16-bit weights.

        Gradients are shortened by the trainer. Vectors (biases, norms) do not decay.
        """
        if self.optimizer is None:
            decaying = {p.name for p in self.exchange.owned.values() if p.ndim > 1}
            self.optimizer = paddle.optimizer.AdamW(
                learning_rate=self.lr_scheduler if lr_scheduler is None else lr_scheduler,
                beta1=self.args.adam_beta1,
                beta2=self.args.adam_beta2,
                epsilon=self.args.adam_epsilon,
                parameters=list(self.exchange.owned.values()),
                weight_decay=self.args.weight_decay,
                apply_decay_param_fun=decaying.__contains__,
                multi_precision=True,
            )
        return self.optimizer

    def training_step(self, model: nn.Layer, inputs: dict[str, Any], step_control: int = 0) -> paddle.Tensor:
        """Forward and backward pass of one batch; its part of the step's loss."""
        model.train()
        inputs = dict(self._prepare_inputs(inputs))
        record_ids = inputs.pop(RECORD_IDS, None)
        loss = self.compute_loss(model, inputs).reshape([]) / self.data.accumulation
        if not loss.stop_gradient:  # only visual parameters are trained, and there was no image
            loss.backward()
        self.exchange.after_backward()
        self._passes.append((loss.detach(), record_ids))
        return loss.detach()

    def _check_loss_valid(self, loss: paddle.Tensor) -> None:
        """The base class calls this between the last backward pass of a step and the optimizer."""
        passes, self._passes = self._passes, []
        loss = paddle.add_n([part for part, _ in passes]).astype("float32")
        wants_stop = paddle.to_tensor(float(self._stop.signal is not None))
        step_loss, stop_share = self.exchange.means(paddle.stack([loss, wants_stop]))
        self._stop_agreed = stop_share > 0
        if not math.isfinite(step_loss):
            bad = [ids for part, ids in passes if not math.isfinite(float(part))]
            raise self._not_finite(f"the loss is {step_loss}", bad)
        norm = self.exchange.average_gradients()
        if not math.isfinite(norm):
            raise self._not_finite(
                f"the loss is {step_loss:.4g}, the norm of its gradient {norm}", [i for _, i in passes]
            )
        if 0 < self.args.max_grad_norm < norm:
            self.exchange.scale_gradients(self.args.max_grad_norm / norm)
        self._window.append(step_loss)
        self._loss_sum += step_loss
        self._gradient_norm = norm
        self._step_learning_rate = float(self._get_learning_rate())  # when it is logged, it is the next step's
        self._tokens += self.data.tokens(self.state.global_step)

    def _not_finite(self, what: str, record_ids: Sequence[Any]) -> TrainingError:
        own = [int(number) for ids in record_ids if ids is not None for number in ids.flatten().tolist()]
        places = [place for part in self.exchange.gather(self.data.places(own)) for place in part]
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        where = f" in {', '.join(places[:_NAMED])}{more}" if places else ""
        return TrainingError(
            f"step {self.state.global_step + 1}: {what}{where}; nothing was saved since the last checkpoint. "
            "Look at these records, or lower learning_rate"
        )

    @property
    def is_stopping(self) -> bool:
        """Whether the training ends with this step; the same in all processes."""
        return self._stop_agreed or (self.exchange.size == 1 and self._stop.signal is not None)

    def after_optimizer(self) -> None:
        self.exchange.after_step()

    def log(self, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and self._window:
            logs["loss"] = math.fsum(self._window) / len(self._window)
            logs["learning_rate"] = self._step_learning_rate
            logs["tokens"] = self._tokens
            logs["grad_norm"] = self._gradient_norm
            self._window = []
        super().log(logs, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of the model as it is now. The random draws of the training go on as if nothing had been."""
        state = paddle_state()
        self.metrics = self._evaluate()
        self.evaluation_owed = False
        set_paddle_state(state)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, self.metrics)
        return self.metrics

    # ------------------------------------------------------------------------------------------------ saving

    def train(self, resume_from_checkpoint: Path | None = None) -> float:
        """Train to the end; returns the mean loss of all steps.

        Raises:
            TrainingError: a loss or gradient that is not finite; a checkpoint of another training.
            CheckpointError: a checkpoint cannot be read or written.
            TrainingInterruptedError: a signal ended it; there is a checkpoint.
        """
        folder = resume_from_checkpoint
        if folder is not None:
            self._restore_progress(folder)
        if self._first_step == self.data.steps:
            self._end(folder)
        else:
            with stop_on_signals(notice=self.exchange.rank == 0) as self._stop:
                super().train(resume_from_checkpoint=None if folder is None else str(folder))
            if self.state.global_step < self.data.steps:
                raise self._interrupted()
        return self._loss_sum / max(self.data.steps, 1)

    def _interrupted(self) -> TrainingInterruptedError:
        # Another process may have got the signal alone.
        number = self._stop.signal or signal.SIGTERM
        folder = Path(self.args.output_dir)
        step = self.state.global_step
        return TrainingInterruptedError(
            f"{folder}: stopped by {signal.Signals(number).name} after step {step} of {self.data.steps}; "
            f"checkpoint-{step} is written, and the same command goes on from there",
            number,
        )

    def _end(self, folder: Path) -> None:
        """What is left after the last step, from its checkpoint."""
        self._load_from_checkpoint(str(folder))
        self.state = TrainerState.load_from_json(str(folder / _TRAINER_STATE))
        self.state.max_steps = self.data.steps
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if self._evaluate is not None and not self.metrics:
            self.evaluate()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _restore_progress(self, folder: Path) -> None:
        progress = read_progress(folder, self.exchange)
        try:
            self._first_step, self._tokens = int(progress["step"]), int(progress["tokens"])
            self._window, self._loss_sum = list(map(float, progress["window"])), float(progress["loss_sum"])
            self._scheduler_state = dict(progress["scheduler"])
            if self._evaluate is not None:
                self.metrics = {name: float(value) for name, value in progress.get("metrics", {}).items()}
                self.evaluation_owed = bool(progress.get("evaluation_owed"))
            TrainerState.load_from_json(str(folder / _TRAINER_STATE))
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise TrainingError(f"{folder}: its state is damaged ({error!r:.100}); remove the folder") from error
        if not 0 < self._first_step <= self.data.steps:
            raise TrainingError(f"{folder}: is of step {self._first_step}, this training has {self.data.steps} steps")

    def _save_checkpoint(self, model: nn.Layer, metrics: Any = None) -> None:
        output_dir = Path(self.args.output_dir)
        progress = {
            "step": self.state.global_step,
            "tokens": self._tokens,
            "window": self._window,
            "loss_sum": self._loss_sum,
            "scheduler": _plain(self.lr_scheduler.state_dict()),
            "metrics": self.metrics,
            "evaluation_owed": self.evaluation_owed,
        }
        with writing_checkpoint(output_dir, self.state.global_step, self.exchange) as folder:
            self.save_weights(folder)
            save_state(folder, progress, self.optimizer, self.exchange)
            if self.exchange.rank == 0:
                self.state.save_to_json(str(folder / _TRAINER_STATE))
        if self.exchange.rank == 0:
            drop_old(output_dir, self.args.save_total_limit)
        self.exchange.barrier()

    def save_weights(self, folder: Path) -> None:
        """Write the weights into a folder; called by every process, the first one writes."""
        with self.exchange.whole_weights():
            if self.exchange.rank == 0:
                self._save_weights(folder)
        self.exchange.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str | None = None) -> None:
        if resume_from_checkpoint is not None:
            with self.exchange.whole_weights():
                self._load_weights(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.lr_scheduler.set_state_dict(self._scheduler_state)
            load_state(Path(checkpoint), self.optimizer, self.exchange)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Done with the optimizer."""

    def _wrap_model(self, model: nn.Layer, training: bool = True) -> nn.Layer:
        """The exchange does what the base class wraps models for."""
        return model

    def _wrap_amp_model(self, args: TrainingArguments, model: nn.Layer) -> None:
        """The model computes in its own dtype."""


class _Pacing(TrainerCallback):
    """Tells the base class when to evaluate, and which part of which epoch a step of the plan is."""

    trainer: FinetuneTrainer

    def __init__(self, data: TrainingData, eval_steps: int | None) -> None:
        self.data = data
        self.eval_steps = eval_steps

    def on_optimizer_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.after_optimizer()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        state.epoch = self.data.epochs(step)
        is_last = step == self.data.steps
        if is_last:
            control.should_log = True
        is_stopping = self.trainer.is_stopping and not is_last
        if self.eval_steps is not None and (is_last or step % self.eval_steps == 0):
            control.should_evaluate = not is_stopping
            self.trainer.evaluation_owed = is_stopping
        if is_stopping:
            control.should_save = control.should_training_stop = True


class _Opening(TrainerCallback):
    """Evaluates before the first step, and where an interruption left it out. Comes after those that are to hear."""

    trainer: FinetuneTrainer

    def __init__(self, eval_on_start: bool) -> None:
        self.eval_on_start = eval_on_start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (self.eval_on_start and state.global_step == 0) or self.trainer.evaluation_owed:
            self.trainer.evaluate()


class _Sized(paddle.io.Dataset):
    """Stands for the data where the base class asks for its length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


def training_arguments(output_dir: Path, data: TrainingData, **options: Any) -> TrainingArguments:
    """The base class's arguments for a training of ``data``: nothing written or printed but what the trainer does."""
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=data.steps,
        gradient_accumulation_steps=data.accumulation,
        evaluation_strategy="no",
        save_strategy="steps",
        ignore_data_skip=True,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        skip_profile_timer=True,
        **options,
    )


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The entries of a scheduler's state that JSON has."""
    return {name: value for name, value in state.items() if isinstance(value, (int, float, str, bool))}
