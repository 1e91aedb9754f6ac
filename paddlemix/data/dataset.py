"""What training and evaluation read: records of several files, the part held out, and examples made on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import ConfigurationError
from ..models.qwen_vl.codec import QWenVLCodec
from .batching import MicroBatch, TrainingPlan
from .collation import ExampleBatch
from .encoding import DROP_TURNS, Example, encode
from .records import Record

_DIGEST_RANGE = 16**16


def held_out(records: Sequence[Record], fraction: float) -> np.ndarray:
    """Which records are held out for evaluation, bool ``[records]``: about ``fraction`` of them, at least one.

    Decided by what a record says, so that neither its place nor other records matter; equal ones stay together.

    Raises:
        ConfigurationError: nothing would be left to train on.
    """
    shares = np.asarray([int(record.digest, 16) / _DIGEST_RANGE for record in records])
    mask = shares < fraction
    if not mask.any():
        mask = shares == shares.min(initial=1.0)
    if mask.all():
        raise ConfigurationError(f"eval_fraction: {fraction} of {len(records)} records leaves none to train on")
    return mask


class ConversationDataset:
    """Examples of the records of a :class:`~.batching.MicroBatch`, encoded each time anew; nothing is kept.

    Images are opened by the :class:`~.collation.Collator`, which runs in the same worker process.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: QWenVLCodec,
        max_length: int | None = None,
        truncation: str = DROP_TURNS,
    ) -> None:
        self.records = records
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation

    def __len__(self) -> int:
        return len(self.records)

    def example(self, index: int) -> Example:
        return encode(self.records[index], self.tokenizer, self.max_length, self.truncation)

    def __getitem__(self, batch: MicroBatch) -> ExampleBatch:
        rows = tuple(tuple(self.example(index) for index in row) for row in batch.rows)
        return ExampleBatch(rows, tuple(index for row in batch.rows for index in row), batch.target_count)


class PlanSampler:
    """One process's micro-batches in the optimizer steps from ``first_step`` until before ``last_step``."""

    def __init__(self, plan: TrainingPlan, process: int, first_step: int, last_step: int) -> None:
        self.plan = plan
        self.process = process
        self.first_step = first_step
        self.last_step = last_step

    def __len__(self) -> int:
        return max(self.last_step - self.first_step, 0) * self.plan.layout.accumulation

    def __iter__(self) -> Iterator[MicroBatch]:
        return self.plan.micro_batches(self.process, self.first_step, self.last_step)
