"""PaddleNLP's ``Trainer`` on planned batches, with pickle-free checkpoints.

The base class gives the loop over steps, accumulation, learning-rate schedules, callbacks and the logging and saving
intervals. Overridden is what it does otherwise; each method says why:

- batches come from a plan of the whole training: resuming neither skips nor repeats any;
- a loss or gradient that is not finite stops the training before the optimizer changes a weight;
- a parameter without a gradient counts as one with zeros, in one process and in several;
- checkpoints are those of ``checkpoints.py``: safetensors and JSON, complete or absent.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paddle
import paddle.nn as nn
from paddle.distributed import fleet
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.trainer.trainer_callback import TrainerControl, TrainerState

from ..data.loading import SizedIterable
from ..errors import TrainingError, TrainingInterruptedError
from ..parallel.degrees import Degrees
from .checkpoints import load_state, read_progress, remove_old_checkpoints, save_state, writing_checkpoint
from .interruption import StopRequest, stop_on_signals
from .parallel_state import ParallelState
from .randomness import paddle_state, seed_everything, set_paddle_state
from .trainer_callbacks import InitialEvaluationCallback, StepControlCallback
from .training_data import TrainingData

MAX_LOCATIONS_SHOWN = 5
"""Most records that an error names."""
RECORD_IDS = "record_ids"
_TRAINER_STATE = "trainer_state.json"


class FinetuneTrainer(Trainer):
    """Trains the parameters of a model whose ``stop_gradient`` is false.

    Args:
        model: called with a batch, it returns a dict with ``loss``.
        args: from :func:`training_arguments`.
        data: the batches.
        save_weights: writes the weights into a directory; called by the main process, and by those that share its
            replica of the model.
        load_weights: reads the weights from a directory; called by every process.
        callbacks: called after the trainer's own.
        evaluate: returns metrics; called by every process. None: no evaluation.
        eval_steps: optimizer steps between evaluations; None: after the last step only.
        eval_on_start: evaluate before the first step as well.
        degrees: the arrangement of the processes; Fleet has been told of it. By default all are data-parallel.

    Attributes:
        metrics: of the last evaluation.
        parallel: the processes.
        evaluation_pending: the training ended at a step whose evaluation was skipped.
    """

    optimizer: Any  # the base class's, which has no types
    control: TrainerControl

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
        degrees: Degrees | None = None,
    ) -> None:
        self.data = data
        self.metrics: dict[str, float] = {}
        self._evaluate = evaluate
        self._save_weights, self._load_weights = save_weights, load_weights
        self._first_step = 0
        self._micro_batches: list[tuple[paddle.Tensor, Any]] = []  # loss and record ids of each of this step
        self._record_ids: list[Any] = []  # of this step
        self._losses_since_log: list[float] = []
        self._loss_sum, self._tokens, self._gradient_norm = 0.0, 0, math.nan
        self._step_learning_rate = 0.0
        self._stop = StopRequest()
        self._all_stop = False  # whether any process was asked to stop, as agreed in this step
        self.evaluation_pending = False
        step_control = StepControlCallback(data, None if evaluate is None else eval_steps or data.steps)
        initial = InitialEvaluationCallback(evaluate is not None and eval_on_start)
        super().__init__(
            model=model,
            args=args,
            train_dataset=_Sized(data.steps),
            callbacks=[step_control, *callbacks, initial],
        )
        step_control.trainer = initial.trainer = self
        self.parallel = ParallelState(model, degrees)
        seed_everything(args.seed, self.parallel.degrees.replica)

    # ------------------------------------------------------------------------------------------------ a step

    def get_train_dataloader(self) -> SizedIterable[dict[str, paddle.Tensor]]:
        """Overridden: the base class would sample batches from the dataset; here they are planned."""
        return self.data.loader(self._first_step)

    def create_optimizer(self, lr_scheduler: Any = None) -> paddle.optimizer.AdamW:
        """AdamW over the trainable parameters, its state in float32, also for 16-bit weights.

        Overridden: the base class optimizes frozen parameters too, and clips gradients without telling their norm.
        Vectors (biases, norms) have no weight decay.
        """
        if self.optimizer is None:
            trainable = list(self.parallel.trainable.values())
            decaying = {parameter.name for parameter in trainable if parameter.ndim > 1}
            self.optimizer = paddle.optimizer.AdamW(
                learning_rate=self.lr_scheduler if lr_scheduler is None else lr_scheduler,
                beta1=self.args.adam_beta1,
                beta2=self.args.adam_beta2,
                epsilon=self.args.adam_epsilon,
                parameters=trainable,
                weight_decay=self.args.weight_decay,
                apply_decay_param_fun=decaying.__contains__,
                multi_precision=True,
            )
        return self.optimizer

    def training_step(self, model: nn.Layer, inputs: dict[str, Any], step_control: int = 0) -> paddle.Tensor:
        """Forward and backward pass of one micro-batch; returns its share of the step's loss.

        Overridden: the record ids are kept for messages, and a loss without any trained parameter is allowed.
        """
        model.train()
        inputs = dict(self._prepare_inputs(inputs))
        record_ids = inputs.pop(RECORD_IDS, None)
        loss = self.compute_loss(model, inputs).reshape([]) / self.data.accumulation
        if self._micro_batches:  # what only some processes have from those before counts as well
            self.parallel.fill_gradients()
        if not loss.stop_gradient:  # only visual parameters are trained, and there was no image
            loss.backward()
        self._micro_batches.append((loss.detach(), record_ids))
        return loss.detach()

    def _check_loss_valid(self, loss: paddle.Tensor) -> None:
        """Average the processes' losses, and stop all of them where one is not finite.

        Overridden: the base class looks at this process's loss alone. It calls this behind the last backward pass of a
        step, before Fleet adds up the gradients.
        """
        micro_batches, self._micro_batches = self._micro_batches, []
        loss = paddle.add_n([part for part, _ in micro_batches]).astype("float32")
        wants_stop = paddle.to_tensor(float(self._stop.signal is not None))
        step_loss, stop_share = self.parallel.mean(paddle.stack([loss, wants_stop]))
        self._all_stop = stop_share > 0
        if not math.isfinite(step_loss):
            bad = [ids for part, ids in micro_batches if not math.isfinite(float(part))]
            raise self._not_finite(f"the loss is {step_loss}", bad)
        self.parallel.fill_gradients()
        self.parallel.add_partial_gradients()
        self._record_ids = [ids for _, ids in micro_batches]
        self._losses_since_log.append(step_loss)
        self._loss_sum += step_loss
        self._step_learning_rate = float(self._get_learning_rate())  # at the time of logging it is the next step's
        self._tokens += self.data.tokens(self.state.global_step)

    def _not_finite(self, what: str, record_ids: Sequence[Any]) -> TrainingError:
        own = [int(number) for ids in record_ids if ids is not None for number in ids.flatten().tolist()]
        parts = self.parallel.gather(self.data.source_locations(own))
        locations = [location for part in parts for location in part]
        more = f" and {len(locations) - MAX_LOCATIONS_SHOWN} more" if len(locations) > MAX_LOCATIONS_SHOWN else ""
        where = f" in {', '.join(locations[:MAX_LOCATIONS_SHOWN])}{more}" if locations else ""
        return TrainingError(
            f"step {self.state.global_step + 1}: {what}{where}; nothing was saved since the last checkpoint. "
            "Look at these records, or lower learning_rate"
        )

    @property
    def is_stopping(self) -> bool:
        """Whether the training ends with this step on request; the same in all processes."""
        return self._all_stop or (self.parallel.size == 1 and self._stop.signal is not None)

    def before_optimizer(self) -> None:
        """Validate and clip the gradients, which are averaged over the processes by now."""
        norm = self.parallel.gradient_norm(self.optimizer)
        if not math.isfinite(norm):
            what = f"the loss is {self._losses_since_log[-1]:.4g}, the norm of its gradient {norm}"
            raise self._not_finite(what, self._record_ids)
        if 0 < self.args.max_grad_norm < norm:
            self.parallel.scale_gradients(self.optimizer, self.args.max_grad_norm / norm)
        self._gradient_norm = norm

    def log(self, logs: dict[str, float], **kwargs: Any) -> None:
        """Overridden: the base class logs this process's loss and the next step's learning rate."""
        if "loss" in logs and self._losses_since_log:
            logs["loss"] = math.fsum(self._losses_since_log) / len(self._losses_since_log)
            logs["learning_rate"] = self._step_learning_rate
            logs["tokens"] = self._tokens
            logs["grad_norm"] = self._gradient_norm
            self._losses_since_log = []
        super().log(logs, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of the model as it is now; the training's random state is the same afterwards.

        Overridden: the base class evaluates on a dataset with its own loop.
        """
        if self._evaluate is None:
            return {}
        state = paddle_state()
        self.metrics = self._evaluate()
        self.evaluation_pending = False
        set_paddle_state(state)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, self.metrics)
        return self.metrics

    # ------------------------------------------------------------------------------------------------ saving

    def train(self, resume_from_checkpoint: Path | None = None) -> float:
        """Train to the end; returns the mean loss of all steps.

        Overridden: resuming first reads how far the checkpoint is, and signals end the training with a checkpoint.

        Raises:
            TrainingError: a loss or gradient that is not finite; a checkpoint of another training.
            CheckpointError: a checkpoint cannot be read or written.
            TrainingInterruptedError: a signal ended it; there is a checkpoint.
        """
        checkpoint = resume_from_checkpoint
        if checkpoint is not None:
            self._restore_progress(checkpoint)
        if checkpoint is not None and self._first_step == self.data.steps:
            self._finish_from(checkpoint)
        else:
            with stop_on_signals(notice=self.parallel.rank == 0) as self._stop:
                super().train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
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
            f"checkpoint-{step} is written, and the same command resumes from there",
            number,
        )

    def _finish_from(self, checkpoint: Path) -> None:
        """What remains after the last step, from its checkpoint."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / _TRAINER_STATE))
        self.state.max_steps = self.data.steps
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if self._evaluate is not None and not self.metrics:
            self.evaluate()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _restore_progress(self, checkpoint: Path) -> None:
        progress = read_progress(checkpoint, self.parallel)
        try:
            self._first_step, self._tokens = int(progress["step"]), int(progress["tokens"])
            self._losses_since_log, self._loss_sum = list(map(float, progress["window"])), float(progress["loss_sum"])
            self._scheduler_state = dict(progress["scheduler"])
            if self._evaluate is not None:
                self.metrics = {name: float(value) for name, value in progress.get("metrics", {}).items()}
                self.evaluation_pending = bool(progress.get("evaluation_owed"))
            TrainerState.load_from_json(str(checkpoint / _TRAINER_STATE))
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise TrainingError(f"{checkpoint}: its state is damaged ({error!r:.100}); remove the folder") from error
        if not 0 < self._first_step <= self.data.steps:
            raise TrainingError(
                f"{checkpoint}: is of step {self._first_step}, this training has {self.data.steps} steps"
            )

    def _save_checkpoint(self, model: nn.Layer, metrics: Any = None) -> None:
        """Overridden: the base class writes pickles, in place, so that a killed process leaves half a checkpoint."""
        output_dir = Path(self.args.output_dir)
        progress = {  # the names are those of checkpoints on disk
            "step": self.state.global_step,
            "tokens": self._tokens,
            "window": self._losses_since_log,
            "loss_sum": self._loss_sum,
            "scheduler": _json_entries(self.lr_scheduler.state_dict()),
            "metrics": self.metrics,
            "evaluation_owed": self.evaluation_pending,
        }
        with writing_checkpoint(output_dir, self.state.global_step, self.parallel) as folder:
            self.save_weights(folder)
            save_state(folder, progress, self.optimizer, self.parallel)
            if self.parallel.rank == 0:
                self.state.save_to_json(str(folder / _TRAINER_STATE))
        if self.parallel.rank == 0:
            remove_old_checkpoints(output_dir, self.args.save_total_limit)
        self.parallel.barrier()

    def save_weights(self, folder: Path) -> None:
        """Write the weights into a directory; every process calls this, the main process writes."""
        if self.parallel.writes_weights:
            self._save_weights(folder)
        self.parallel.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str | None = None) -> None:
        """Overridden: weights are read as :meth:`save_weights` wrote them."""
        if resume_from_checkpoint is not None:
            self._load_weights(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Overridden: the state is read as :meth:`_save_checkpoint` wrote it, without pickle."""
        if checkpoint is not None:
            self.lr_scheduler.set_state_dict(self._scheduler_state)
            load_state(Path(checkpoint), self.optimizer, self.parallel)

    def _wrap_model(self, model: nn.Layer, training: bool = True) -> nn.Layer:
        """Overridden for a split model: Fleet would wrap it in a layer that needs GPUs and sends all inputs again."""
        if self.parallel.degrees.tensor == 1:
            return super()._wrap_model(model, training)
        self.optimizer = fleet.distributed_optimizer(self.optimizer)
        return model

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Overridden to do nothing: the random state is read with the optimizer's."""


class _Sized(paddle.io.Dataset):
    """Stands in for the dataset where the base class asks for its length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


def training_arguments(output_dir: Path, data: TrainingData, **options: Any) -> TrainingArguments:
    """The base class's arguments for a training, with its own writing, printing and reporting switched off.

    Args:
        output_dir: directory of the checkpoints.
        data: what is trained on.
        options: further fields of ``TrainingArguments``.
    """
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
        release_grads=True,
        **options,
    )


def _json_entries(state: dict[str, Any]) -> dict[str, Any]:
    """The entries of a scheduler's state that JSON can hold."""
    return {name: value for name, value in state.items() if isinstance(value, (int, float, str, bool))}
