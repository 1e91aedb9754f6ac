"""The eval split, and records encoded on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import ConfigurationError
from ..models.qwen_vl.codec import QWenVLCodec
from .batching import MicroBatch, TrainingPlan
from .collation import ExampleBatch
from .encoding import DROP_TURNS, Example, encode
from .records import Record

_HASH_RANGE = 16**16


def eval_split(records: Sequence[Record], fraction: float) -> np.ndarray:
    """Choose the eval split by content hash: neither a record's position nor other records matter.

    Args:
        records: all records.
        fraction: of the records to choose, approximately; at least one is chosen.

    Returns:
        bool ``[records]``; equal records are on the same side.

    Raises:
        ConfigurationError: nothing would be left to train on.
    """
    shares = np.asarray([int(record.content_hash, 16) / _HASH_RANGE for record in records])
    mask = shares < fraction
    if not mask.any():
        mask = shares == shares.min(initial=1.0)
    if mask.all():
        raise ConfigurationError(f"eval_fraction: {fraction} of {len(records)} records leaves none to train on")
    return mask


class ConversationDataset:
    """The examples of a :class:`~.batching.MicroBatch`, encoded on demand; nothing is cached.

    Images are opened by the :class:`~.collation.Collator`, which runs in the same worker process.

    Args:
        records: all records.
        tokenizer: of the model.
        max_length: as in :func:`~.encoding.encode`.
        truncation: likewise.
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
        """Number of records."""
        return len(self.records)

    def example(self, index: int) -> Example:
        """Encode one record."""
        return encode(self.records[index], self.tokenizer, self.max_length, self.truncation)

    def __getitem__(self, batch: MicroBatch) -> ExampleBatch:
        """Encode the records of a micro-batch."""
        rows = tuple(tuple(self.example(index) for index in row) for row in batch.rows)
        return ExampleBatch(rows, tuple(index for row in batch.rows for index in row), batch.target_count)


class PlanSampler:
    """The micro-batches of a process in the optimizer steps ``range(first_step, last_step)``.

    Args:
        plan: of the training.
        process: rank.
        first_step: of the training.
        last_step: after the last one.
    """

    def __init__(self, plan: TrainingPlan, process: int, first_step: int, last_step: int) -> None:
        self.plan = plan
        self.process = process
        self.first_step = first_step
        self.last_step = last_step

    def __len__(self) -> int:
        """Number of micro-batches."""
        return max(self.last_step - self.first_step, 0) * self.plan.layout.accumulation

    def __iter__(self) -> Iterator[MicroBatch]:
        """The micro-batches in order."""
        return self.plan.micro_batches(self.process, self.first_step, self.last_step)
