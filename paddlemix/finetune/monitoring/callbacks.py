"""What PaddleNLP's ``Trainer`` tells while it trains, passed on to a line of progress, a table, VisualDL and curves.

Training logs hold ``loss``, ``learning_rate``, ``tokens`` (fed so far by all processes, without padding) and
``grad_norm``, where known. Evaluations come as ``metrics`` of ``on_evaluate``. The first process alone writes.
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
from . import curves
from .progress import LEAST_SECONDS_BETWEEN_DRAWINGS, Progress, ProgressLine, describe
from .training_log import EVAL_COLUMNS, TrainingLog

if TYPE_CHECKING:
    from paddlenlp.trainer import Trainer

LOG_FILE = "log.csv"
CURVES_FILE = "curves.png"
VISUALDL_DIR = "visualdl"

_Clock = Callable[[], float]


@dataclass(frozen=True)
class Watch:
    """callbacks: for the ``Trainer``, in this order. activity: shows on the terminal what is done between two steps."""

    callbacks: list[TrainerCallback]
    activity: Callable[[str], None]


@contextlib.contextmanager
def watching(output_dir: Path, *, visualdl: bool) -> Iterator[Watch]:
    """Watch the training inside: ``log.csv``, ``curves.png`` and, with ``visualdl``, ``visualdl/`` in ``output_dir``.

    Progress goes to the standard error stream; of PaddleNLP's own log only warnings and errors are left. Also after an
    exception the line of progress is ended and all files are whole.

    Raises:
        MissingDependencyError: matplotlib is not installed, or VisualDL where it was asked for.
    """
    log = TrainingLog(output_dir / LOG_FILE)
    progress = ProgressCallback()
    callbacks = [ThroughputCallback(), progress, CSVCallback(log), CurvesCallback(log)]
    writers = [VisualDLCallback(log)] if visualdl else []
    level = logger.logger.level
    logger.set_level("WARNING")
    try:
        yield Watch([*callbacks, *writers], progress.activity)
    finally:
        logger.logger.setLevel(level)
        for callback in (progress, *writers):
            callback.close()


def remove_default_callbacks(trainer: Trainer) -> None:
    """Take out what PaddleNLP's ``Trainer`` adds on its own to print and draw progress."""
    for kind in (PrinterCallback, PaddleNLPProgressCallback, PaddleNLPVisualDLCallback):
        trainer.remove_callback(kind)


class ThroughputCallback(TrainerCallback):
    """Adds ``tokens_per_second`` to the logs, for the callbacks after it: time in evaluation and saving is left out."""

    def __init__(self, clock: _Clock = time.monotonic) -> None:
        self._clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # After resuming, the count of the first log has nothing to be compared with.
        self._tokens: int | None = None if state.global_step else 0
        self._started = self._mark = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mark = self._clock()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        now = self._clock()
        tokens, before = logs.get("tokens"), self._tokens
        if tokens is not None and before is not None and now > self._started:
            logs["tokens_per_second"] = (tokens - before) / (now - self._started)
        self._tokens = tokens
        self._started = self._mark = now

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._leave_out()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._leave_out()

    def _leave_out(self) -> None:
        """The time since the last step, log, evaluation or save does not count."""
        now = self._clock()
        self._started += now - self._mark
        self._mark = now


class ProgressCallback(TrainerCallback):
    """One line on a terminal; elsewhere a line per log. Evaluations are lines of their own in both."""

    def __init__(self, stream: TextIO | None = None, clock: _Clock = time.monotonic) -> None:
        """stream: where to write, the standard error stream by default."""
        self._line = ProgressLine(sys.stderr if stream is None else stream)
        self._clock = clock
        self._progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._warm: tuple[int, float] | None = None  # the step after which time is measured, and when it ended
            self._drawn = self._clock()
            self._progress = Progress(state.global_step, state.max_steps)
            if state.global_step:
                self._line.say(f"going on after step {state.global_step} of {state.max_steps}")
            self._draw()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._progress is None:
            return
        self._update(state.global_step)
        is_last = state.global_step >= state.max_steps
        if is_last or self._clock() - self._drawn >= LEAST_SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._progress is None or not logs or "loss" not in logs:
            return
        self._progress = self._progress.measured(logs)
        if self._line.is_terminal:
            self._draw()
        else:
            self._line.say(describe(self._progress))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self._progress is None or not metrics:
            return
        shown = [f"{name} {metrics[name]:.4f}" for name in EVAL_COLUMNS if metrics.get(name) is not None]
        self._line.say("  ".join([f"step {state.global_step}:", *shown]))
        self._draw()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the line, so that what is printed next stands on a line of its own."""
        self._line.close()

    def activity(self, text: str) -> None:
        """Say on the terminal what is being done besides training, until the next step; for long work."""
        if self._progress is not None:
            self._draw(text)

    def _update(self, step: int) -> None:
        """The first step does not count: workers start in it, memory is taken, an evaluation may come before it."""
        now = self._clock()
        left = 0.0 if step >= self._progress.total else None
        if self._warm is None:
            self._warm = step, now
        elif left is None:
            first, began = self._warm
            left = (self._progress.total - step) * (now - began) / (step - first)
        self._progress = replace(self._progress, step=step, seconds_left=left)

    def _draw(self, activity: str = "") -> None:
        self._drawn = self._clock()
        self._line.draw(describe(self._progress, activity), self._progress.step, self._progress.total)


class CSVCallback(TrainerCallback):
    """Appends logs and evaluations to a :class:`TrainingLog`; resuming goes on after the step that was resumed from."""

    def __init__(self, log: TrainingLog) -> None:
        self._log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._log.start(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            self._log.append(state.global_step, {**logs, "epoch": state.epoch})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and metrics:
            self._log.append(state.global_step, {**metrics, "epoch": state.epoch})


class CurvesCallback(TrainerCallback):
    """Draws the rows of a :class:`TrainingLog` beside it, at each save and at the end. Comes after the log's own."""

    def __init__(self, log: TrainingLog) -> None:
        """Raises MissingDependencyError without matplotlib: better now than at the end of a training."""
        require("matplotlib", "drawing training curves")
        self._log = log

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._draw(state)

    def _draw(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        path = self._log.path.with_name(CURVES_FILE)
        try:
            curves.draw(curves.panels_of_log(self._log.rows), path)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error


class VisualDLCallback(TrainerCallback):
    """Writes what a :class:`TrainingLog` holds for VisualDL, beside it. Comes after the log's own callback.

    Its file is written anew at every start, from the rows there are: after resuming, no step is in it twice.
    """

    def __init__(self, log: TrainingLog) -> None:
        """Raises MissingDependencyError without VisualDL."""
        self._log_writer = require("visualdl", "VisualDL logs (visualdl)").LogWriter
        self._log = log
        self._writer: Any = None
        self._written = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = self._log.path.with_name(VISUALDL_DIR)
            for old in folder.glob("vdlrecords.*"):
                old.unlink()
            self._writer = self._log_writer(logdir=str(folder))
            self._written = 0
            self._write()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still in memory; nothing is taken after this."""
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
