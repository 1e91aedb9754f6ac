"""Callbacks of PaddleNLP's ``Trainer`` that show progress and write log table, learning curves and VisualDL.

Training logs hold ``loss``, ``learning_rate``, ``tokens`` (seen so far by all processes, without padding) and
``grad_norm``, where known. Evaluations arrive as ``metrics`` of ``on_evaluate``. The main process alone writes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.integrations import VisualDLCallback as PaddleNLPVisualDLCallback
from paddlenlp.trainer.trainer_callback import PrinterCallback
from paddlenlp.trainer.trainer_callback import ProgressCallback as PaddleNLPProgressCallback
from paddlenlp.utils.log import logger

from ...errors import ConfigurationError
from ...utils.dependencies import require
from . import learning_curves
from .progress import MIN_REFRESH_SECONDS, Progress, ProgressLine, describe
from .training_log import EVAL_COLUMNS, TrainingLog

if TYPE_CHECKING:
    from paddlenlp.trainer import Trainer

LOG_FILE = "log.csv"
CURVES_FILE = "curves.png"
VISUALDL_DIR = "visualdl"

_Clock = Callable[[], float]


@dataclass(frozen=True)
class TrainingMonitor:
    """The monitoring of one training.

    Attributes:
        callbacks: for the ``Trainer``, in this order.
        show_status: shows on the terminal what is done between two steps.
    """

    callbacks: list[TrainerCallback]
    show_status: Callable[[str], None]


@contextlib.contextmanager
def monitor_training(output_dir: Path, *, visualdl: bool) -> Iterator[TrainingMonitor]:
    """Monitor the training in this context: ``log.csv``, ``curves.png`` and ``visualdl/`` in ``output_dir``.

    Progress goes to stderr; PaddleNLP's own log is reduced to warnings and errors. After an exception, too, the
    progress line is ended and all files are complete.

    Args:
        output_dir: of the run.
        visualdl: whether to write VisualDL logs.

    Raises:
        MissingDependencyError: matplotlib is not installed, or VisualDL where it is needed.
    """
    log = TrainingLog(output_dir / LOG_FILE)
    progress = ProgressCallback()
    callbacks: list[TrainerCallback] = [ThroughputCallback(), progress, CSVCallback(log), LearningCurvesCallback(log)]
    visualdl_callbacks = [VisualDLCallback(log)] if visualdl else []
    level = logger.logger.level
    logger.set_level("WARNING")
    try:
        yield TrainingMonitor([*callbacks, *visualdl_callbacks], progress.show_status)
    finally:
        logger.logger.setLevel(level)
        progress.close()
        for callback in visualdl_callbacks:
            callback.close()


def remove_default_callbacks(trainer: Trainer) -> None:
    """Remove the callbacks that PaddleNLP's ``Trainer`` adds by default to print and draw progress."""
    for kind in (PrinterCallback, PaddleNLPProgressCallback, PaddleNLPVisualDLCallback):
        trainer.remove_callback(kind)


class ThroughputCallback(TrainerCallback):
    """Adds ``tokens_per_second`` to the logs, for the callbacks after it; evaluation and saving do not count.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: _Clock = time.monotonic) -> None:
        self._clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start measuring."""
        # After resuming, the token count of the first log has no predecessor.
        self._tokens: int | None = None if state.global_step else 0
        self._started = self._mark = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        self._mark = self._clock()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the throughput since the last log."""
        if not logs or "loss" not in logs:
            return
        now = self._clock()
        tokens, before = logs.get("tokens"), self._tokens
        if tokens is not None and before is not None and now > self._started:
            logs["tokens_per_second"] = (tokens - before) / (now - self._started)
        self._tokens = tokens
        self._started = self._mark = now

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude the evaluation."""
        self._exclude()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude the save."""
        self._exclude()

    def _exclude(self) -> None:
        """Exclude the time since the last step, log, evaluation or save."""
        now = self._clock()
        self._started += now - self._mark
        self._mark = now


class ProgressCallback(TrainerCallback):
    """One progress line on a terminal, elsewhere a line per log; evaluations are lines of their own.

    Args:
        stream: where to write; stderr by default.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: _Clock = time.monotonic) -> None:
        self._line = ProgressLine(sys.stderr if stream is None else stream)
        self._clock = clock
        self._progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the line for the first time."""
        if state.is_world_process_zero:
            self._warm: tuple[int, float] | None = None  # the step after which time is measured, and when it ended
            self._drawn = self._clock()
            self._progress = Progress(state.global_step, state.max_steps)
            if state.global_step:
                self._line.print(f"resuming after step {state.global_step} of {state.max_steps}")
            self._draw()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the line."""
        if self._progress is None:
            return
        self._progress = self._update(self._progress, state.global_step)
        is_last = state.global_step >= state.max_steps
        if is_last or self._clock() - self._drawn >= MIN_REFRESH_SECONDS:
            self._draw()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the new measurements."""
        if self._progress is None or not logs or "loss" not in logs:
            return
        self._progress = self._progress.measured(logs)
        if self._line.is_terminal:
            self._draw()
        else:
            self._line.print(describe(self._progress))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Print the metrics."""
        if self._progress is None or not metrics:
            return
        shown = [f"{name} {metrics[name]:.4f}" for name in EVAL_COLUMNS if metrics.get(name) is not None]
        self._line.print("  ".join([f"step {state.global_step}:", *shown]))
        self._draw()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the line."""
        self.close()

    def close(self) -> None:
        """End the progress line, so that later output is on a line of its own."""
        self._line.close()

    def show_status(self, text: str) -> None:
        """Show on the terminal what is done besides training, until the next step."""
        self._draw(text)

    def _update(self, progress: Progress, step: int) -> Progress:
        """The progress after a step. The first one is not measured: workers start and memory is allocated in it."""
        now = self._clock()
        left = 0.0 if step >= progress.total else None
        if self._warm is None:
            self._warm = step, now
        elif left is None:
            first, began = self._warm
            left = (progress.total - step) * (now - began) / (step - first)
        return replace(progress, step=step, seconds_left=left)

    def _draw(self, status: str = "") -> None:
        if self._progress is None:
            return
        self._drawn = self._clock()
        self._line.draw(describe(self._progress, status), self._progress.step, self._progress.total)


class CSVCallback(TrainerCallback):
    """Appends logs and evaluations to a :class:`TrainingLog`; resuming drops the rows after the checkpoint.

    Args:
        log: the table.
    """

    def __init__(self, log: TrainingLog) -> None:
        self._log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start or continue the file."""
        if state.is_world_process_zero:
            self._log.start(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append a training row."""
        if state.is_world_process_zero and logs and "loss" in logs:
            self._log.append(state.global_step, {**logs, "epoch": state.epoch})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Append an evaluation row."""
        if state.is_world_process_zero and metrics:
            self._log.append(state.global_step, {**metrics, "epoch": state.epoch})


class LearningCurvesCallback(TrainerCallback):
    """Draws ``curves.png`` beside a :class:`TrainingLog`, at each save and at the end; comes after the log's callback.

    Args:
        log: the table.

    Raises:
        MissingDependencyError: matplotlib is not installed; better now than at the end of a training.
    """

    def __init__(self, log: TrainingLog) -> None:
        require("matplotlib", "drawing training curves")
        self._log = log

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw."""
        self._draw(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw."""
        self._draw(state)

    def _draw(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        path = self._log.path.with_name(CURVES_FILE)
        try:
            learning_curves.draw(learning_curves.panels_of_log(self._log.rows), path)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error


class VisualDLCallback(TrainerCallback):
    """Writes the rows of a :class:`TrainingLog` for VisualDL, beside it; comes after the log's callback.

    Its file is rewritten at every start: after resuming, no step is in it twice.

    Args:
        log: the table.

    Raises:
        MissingDependencyError: VisualDL is not installed.
    """

    def __init__(self, log: TrainingLog) -> None:
        self._log_writer = require("visualdl", "VisualDL logs (visualdl)").LogWriter
        self._log = log
        self._writer: Any = None
        self._written = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the file with the rows so far."""
        if state.is_world_process_zero:
            folder = self._log.path.with_name(VISUALDL_DIR)
            for old in folder.glob("vdlrecords.*"):
                old.unlink()
            self._writer = self._log_writer(logdir=str(folder))
            self._written = 0
            self._write()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write new rows."""
        self._write()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write new rows."""
        self._write()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Flush and close the file; later rows are not written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self) -> None:
        if self._writer is None:
            return
        for row in self._log.rows[self._written :]:
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    tag = f"eval/{name[len('eval_') :]}" if name in EVAL_COLUMNS else f"train/{name}"
                    self._writer.add_scalar(tag, value, row["step"])
        self._written = len(self._log.rows)
        self._writer.flush()
