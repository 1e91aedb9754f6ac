"""What a training reads: validated records, their eval split, and the batches of each optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..data.batching import BatchLayout, TrainingPlan
from ..data.checks import CheckReport, check_files
from ..data.collation import Collator
from ..data.dataset import ConversationDataset, PlanSampler, eval_split
from ..data.loading import BatchLoader, SizedIterable
from ..data.records import Record
from ..media import ImagePolicy
from ..models.qwen_vl.processing import QwenVLProcessor
from ..parallel.degrees import Degrees
from .configuration import DataSource, FinetuneConfig

Log = Callable[[str], Any]


class TrainingData(ABC):
    """The batches of a training, by optimizer step. Steps count from 0 over all epochs.

    Whoever resumes asks for the batches from a step on, so nothing is read twice and nothing skipped.

    Attributes:
        steps: optimizer steps of the training.
        accumulation: micro-batches of each process per optimizer step.
    """

    steps: int
    accumulation: int

    @abstractmethod
    def loader(self, first_step: int) -> SizedIterable[dict[str, paddle.Tensor]]:
        """This process's micro-batches from ``first_step`` to the end, ``accumulation`` for each step.

        A batch holds the arguments of the model, whose output has ``loss``; the mean of the losses over micro-batches
        and processes is the loss of the step. An entry ``record_ids``, int64, is not passed to the model but to
        :meth:`source_locations`.
        """

    @abstractmethod
    def tokens(self, step: int) -> int:
        """Tokens of all processes in an optimizer step, without padding."""

    @abstractmethod
    def epochs(self, step: int) -> float:
        """Epochs completed before optimizer step ``step``, fractional."""

    @abstractmethod
    def source_locations(self, record_ids: Sequence[int]) -> list[str]:
        """``FILE:LINE`` of records, for messages."""


class ConversationData(TrainingData):
    """The training records of a run in the batches of a :class:`~paddlemix.data.batching.TrainingPlan`.

    Args:
        config: of the run.
        report: the records.
        processor: of the model.
        degrees: the arrangement of the processes.
    """

    def __init__(
        self, config: FinetuneConfig, report: CheckReport, processor: QwenVLProcessor, degrees: Degrees
    ) -> None:
        layout = BatchLayout(
            micro_batch_size=config.per_device_train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            processes=degrees.replicas,
            max_length=config.max_length,
            packing=config.packing,
            group_by_length=config.group_by_length,
        )
        weights = [source.weight for source in config.data]
        self.plan = TrainingPlan(
            report.lengths, report.targets, layout, seed=config.seed, sources=report.sources, weights=weights
        )
        self.records = report.records
        self.steps = config.max_steps if config.max_steps > 0 else self.plan.total_steps(config.num_train_epochs)
        self.accumulation = config.gradient_accumulation_steps
        self._workers = config.dataloader_num_workers
        self._replica = degrees.replica
        self._dataset = ConversationDataset(report.records, processor.tokenizer, config.max_length, config.truncation)
        self._collator = Collator.of(processor, ImagePolicy.scripts(config.max_pixels))

    def loader(self, first_step: int) -> SizedIterable[dict[str, paddle.Tensor]]:
        """See :meth:`TrainingData.loader`."""
        sampler = PlanSampler(self.plan, self._replica, first_step, self.steps)
        return BatchLoader(self._dataset, sampler, self._collator, self._workers)

    def tokens(self, step: int) -> int:
        """See :meth:`TrainingData.tokens`."""
        epoch, step_in_epoch = self.plan.locate(step)
        return int(self.plan.epoch(epoch).step_tokens[step_in_epoch])

    def epochs(self, step: int) -> float:
        """See :meth:`TrainingData.epochs`."""
        epoch, step_in_epoch = self.plan.locate(step)
        return epoch + step_in_epoch / self.plan.steps(epoch)

    def source_locations(self, record_ids: Sequence[int]) -> list[str]:
        """See :meth:`TrainingData.source_locations`."""
        return [str(self.records[number].location) for number in np.unique(record_ids)]


@dataclass(frozen=True)
class SplitRecords:
    """The usable records of a run.

    Attributes:
        train: report on the training records.
        eval: records of the eval split; empty without one.
        problems: table of the bad records; "" if there are none.
    """

    train: CheckReport
    eval: list[Record]
    problems: str


def load_processor(config: FinetuneConfig, name_or_dir: str | Path) -> QwenVLProcessor:
    """The processor of the base model with the image settings of the run."""
    return QwenVLProcessor.from_pretrained(
        name_or_dir, exif_transpose=config.exif_transpose, background=config.background
    )


def load_records(config: FinetuneConfig, processor: QwenVLProcessor, log: Log) -> SplitRecords:
    """Validate all records and split them into training and evaluation.

    Raises:
        RecordError: bad records, unless ``bad_records`` is "skip".
        ConfigurationError: a file without usable records, or nothing left to train on.
    """
    report = check_sources(config, config.data, processor, log)
    problems = [report.table()] if report.problems else []
    log(str(report))
    report = report.usable(config.bad_records)
    eval_records: list[Record] = []
    if config.eval_data is not None:
        eval_report = check_sources(config, config.eval_data, processor, log)
        log(f"evaluation: {eval_report}")
        problems += [eval_report.table()] if eval_report.problems else []
        eval_records = eval_report.usable(config.bad_records).records
    elif config.eval_fraction:
        is_eval = eval_split(report.records, config.eval_fraction)
        eval_records = [record for record, chosen in zip(report.records, is_eval) if chosen]
        report = report.select(~is_eval)
    return SplitRecords(report, eval_records, "\n".join(problems))


def check_sources(
    config: FinetuneConfig, sources: Sequence[DataSource], processor: QwenVLProcessor, log: Log
) -> CheckReport:
    """Validate the records of some files with the settings of the run."""
    return check_files(
        [source.path for source in sources],
        processor,
        max_length=config.max_length,
        truncation=config.truncation,
        image_check=config.image_check,
        workers=config.dataloader_num_workers,
        policy=ImagePolicy.scripts(config.max_pixels),
        boxes=config.boxes,
        on_start=lambda count: log(f"checking {count} records"),
    )
