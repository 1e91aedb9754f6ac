"""A small training for the tests of the trainer: two layers with dropout, batches that depend on their number alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import paddle
import paddle.nn as nn
from paddlenlp.trainer import TrainerCallback

from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.checkpoint.writer import write_safetensors
from paddlemix.finetune.checkpoints import _source
from paddlemix.finetune.trainer import FinetuneTrainer, training_arguments
from paddlemix.finetune.training_data import TrainingData


class ToyModel(nn.Layer):
    """Maps 6 numbers to 3; ``used`` takes part only where the batch says so."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.drop = nn.Dropout(dropout)
        self.second = nn.Linear(16, 3)
        self.used = nn.Linear(6, 3)

    def forward(self, x, y, with_used=None):
        out = self.second(self.drop(paddle.tanh(self.first(x))))
        if with_used is not None:
            out = out + self.used(x)
        return {"loss": (out - y).square().mean()}


class ToyBatches:
    """Batches of samples that depend on their numbers alone; sample ``poison`` is NaN."""

    def __init__(self, batches: list[range], poison: int | None) -> None:
        self.batches = batches
        self.poison = poison

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for numbers in self.batches:
            x = np.stack([np.random.default_rng(number).standard_normal(6).astype("float32") for number in numbers])
            if self.poison in numbers:
                x[list(numbers).index(self.poison), 0] = np.nan
            y = np.sin(x[:, :3] * 2)
            yield {name: paddle.to_tensor(array) for name, array in {"x": x, "y": y, "record_ids": [*numbers]}.items()}


class ToyData(TrainingData):
    """``rows`` samples in each of ``accumulation`` passes on each process; the same samples in a step for any division.

    ``poison``: the sample that is NaN.
    """

    def __init__(self, steps=6, accumulation=2, rows=2, rank=0, processes=1, poison=None) -> None:
        self.steps, self.accumulation = steps, accumulation
        self.rows, self.rank, self.processes = rows, rank, processes
        self.poison = poison

    def loader(self, first_step):
        numbers = range(first_step * self.accumulation, self.steps * self.accumulation)
        starts = [(number * self.processes + self.rank) * self.rows for number in numbers]
        return ToyBatches([range(start, start + self.rows) for start in starts], self.poison)

    def tokens(self, step):
        return 100 + step

    def epochs(self, step):
        return step / 4

    def source_locations(self, record_ids):
        return [f"toy.json:{number}" for number in record_ids]


class LogKeeper(TrainerCallback):
    """Keeps what is logged.

    ``stop_after``: raises KeyboardInterrupt in the middle of the step after so many; with ``signals`` it sends these to
    its own process instead.
    """

    def __init__(self, stop_after: int | None = None, signals: tuple[int, ...] = ()) -> None:
        self.logs: list[dict] = []
        self.stop_after = stop_after
        self.signals = signals

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append({name: logs[name] for name in ("loss", "learning_rate", "tokens", "grad_norm")})

    def on_substep_end(self, args, state, control, **kwargs):
        if self.stop_after is None or state.global_step < self.stop_after:
            return
        if not self.signals:
            raise KeyboardInterrupt
        for number in self.signals:
            os.kill(os.getpid(), number)


def toy_trainer(output_dir: Path, data: ToyData, *, model=None, stop_after=None, signals=(), seed=3, **options):
    """A trainer of a toy model and what it logs."""
    own = {name: options.pop(name) for name in ("evaluate", "eval_steps", "eval_on_start") if name in options}
    if model is None:
        paddle.seed(0)
        model = ToyModel()
    keeper = LogKeeper(stop_after, signals)
    arguments = {"save_steps": 2, "save_total_limit": 2, "logging_steps": 1, "learning_rate": 0.05, **options}
    trainer = FinetuneTrainer(
        model,
        training_arguments(output_dir, data, device="cpu", seed=seed, lr_scheduler_type="cosine", **arguments),
        data,
        save_weights=lambda folder: save_toy(model, folder),
        load_weights=lambda folder: load_toy(model, folder),
        callbacks=[keeper],
        **own,
    )
    return trainer, keeper


def save_toy(model: nn.Layer, folder: Path) -> None:
    sources = [_source(name, parameter) for name, parameter in model.named_parameters()]
    write_safetensors(folder / "model.safetensors", sources, {"format": "pd"})


def load_toy(model: nn.Layer, folder: Path) -> None:
    stored, _ = read_safetensors(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        parameter.set_value(np.ascontiguousarray(stored[name].load()))


def weights_of(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}
