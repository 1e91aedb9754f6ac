"""Fine-tuning from a configuration to a result: validate the records, build the model, train, write."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import paddle
import paddle.distributed as dist

from ..checkpoint import hub
from ..data.checks import CheckReport
from ..data.records import Record
from ..media import ImagePolicy
from ..models.qwen_vl.modeling import QWenLMHeadModel
from ..models.qwen_vl.processing import QwenVLProcessor
from ..parallel.degrees import STAGE1, Degrees
from ..parallel.processes import init_process, run_on_main_process
from ..utils.files import told_as_checkpoint_error, write_text
from .configuration import FinetuneConfig
from .evaluation import evaluate
from .model import FinetuneModel
from .modes import build_model, check_base_model, load_trained, save_trained
from .monitoring.callbacks import TrainingMonitor, monitor_training, remove_default_callbacks
from .output import (
    BAD_RECORDS_FILE,
    Run,
    content_hash,
    find_run,
    lock_output_dir,
    prepare_output_dir,
    write_result,
)
from .randomness import seed_everything
from .trainer import FinetuneTrainer, training_arguments
from .training_data import ConversationData, Log, check_sources, load_processor, load_records

SAMPLES_DIR = "samples"


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a run.

    Attributes:
        output_dir: a complete model directory (mode full) or an adapter.
        metrics: ``train_loss``, and those of the last evaluation.
    """

    output_dir: Path
    metrics: dict[str, float]


def finetune(config: FinetuneConfig, log: Log = lambda text: None) -> FinetuneResult:
    """Fine-tune a model. Every process of a distributed launch calls this.

    An interrupted training is resumed; a finished one is left as it is.

    Args:
        config: all options.
        log: called by the main process with a few lines on the progress.

    Raises:
        ConfigurationError: options that cannot work, before the first step.
        RecordError: bad records, before the first step.
        AdapterError: adapter targets that match nothing, before the first step.
        TrainingError: a loss that is not finite, or a checkpoint of another training.
        TrainingInterruptedError: Ctrl-C or SIGTERM ended it after a step, with a checkpoint to resume from.
        ImageError: an image that cannot be read any more.
        CheckpointError: files that cannot be read or written.
        ModelNotFoundError: a base model that is neither here nor in a store.
        NotEnoughMemoryError: weights that do not fit, or a worker process that was killed.
    """
    init_process(config.device)
    degrees = Degrees.of(
        dist.get_world_size(), config.sharding, config.sharding_parallel_degree, config.tensor_parallel_degree
    )
    is_main_process = dist.get_rank() == 0
    log = log if is_main_process else lambda text: None
    output_dir = Path(config.output_dir)
    previous = run_on_main_process(lambda: find_run(config))
    if previous is not None and previous.metrics is not None:
        log(
            f"{output_dir}: the training is finished already: {_format_metrics(previous.metrics)}; to train anew, also "
            "on changed records, name another output_dir"
        )
        return FinetuneResult(output_dir, previous.metrics)
    directory = run_on_main_process(lambda: hub.resolve(config.model_name_or_path))
    processor = load_processor(config, directory)
    records = run_on_main_process(lambda: load_records(config, processor, log))
    data_hash = content_hash(record.content_hash for record in records.train.records)
    run = Run(config.to_dict(), dist.get_world_size(), data_hash)
    degrees.init_fleet()
    seed_everything(config.seed, 0)  # all processes begin with the same adapters
    model = build_model(config, directory, degrees.model_group())

    def begin() -> Path | None:
        resources.enter_context(lock_output_dir(config, previous))
        checkpoint = prepare_output_dir(output_dir, run, previous)
        if records.problems:
            with told_as_checkpoint_error(output_dir / BAD_RECORDS_FILE):
                write_text(output_dir / BAD_RECORDS_FILE, records.problems + "\n")
        return checkpoint

    with contextlib.ExitStack() as resources:
        checkpoint = run_on_main_process(begin)
        data = ConversationData(config, records.train, processor, degrees)
        monitor = resources.enter_context(monitor_training(output_dir, visualdl=_with_visualdl(config)))
        trainer = make_trainer(config, model, processor, data, records.eval, monitor, degrees)
        train_loss = trainer.train(checkpoint)
        metrics = {"train_loss": train_loss, **trainer.metrics}
        finished = replace(run, metrics=metrics)
        if trainer.parallel.writes_weights and not is_main_process:  # the main process does not wait for them
            save_trained(config, model, processor, output_dir)
        run_on_main_process(
            lambda: write_result(output_dir, finished, lambda folder: save_trained(config, model, processor, folder))
        )
    log(f"{output_dir}: {_format_metrics(metrics)}")
    return FinetuneResult(output_dir, metrics)


def check(config: FinetuneConfig, log: Log = lambda text: None) -> list[CheckReport]:
    """Validate the base model's configuration and every record, without training.

    Args:
        config: all options.
        log: called with how many records are checked.

    Returns:
        The report on ``data`` and, with ``eval_data``, that on it; ``str`` of a report is a table.

    Raises:
        ConfigurationError: a file that cannot be read, or a model that the mode cannot train.
        CheckpointError: an invalid model configuration.
    """
    check_base_model(config, config.model_name_or_path)
    processor = load_processor(config, config.model_name_or_path)
    return [check_sources(config, sources, processor, log) for sources in (config.data, config.eval_data) if sources]


def make_trainer(
    config: FinetuneConfig,
    model: QWenLMHeadModel,
    processor: QwenVLProcessor,
    data: ConversationData,
    eval_records: Sequence[Record],
    monitor: TrainingMonitor,
    degrees: Degrees | None = None,
) -> FinetuneTrainer:
    """The trainer of a run.

    Args:
        config: all options.
        model: from :func:`~.modes.build_model`.
        processor: of the model.
        data: the training records.
        eval_records: of the eval split; without any there is no evaluation.
        monitor: its callbacks are called, its status line is used.
        degrees: the arrangement of the processes; by default all are data-parallel.
    """
    training_model = FinetuneModel(model, config.loss_chunk_size, config.recompute)
    output_dir = Path(config.output_dir)

    def run_evaluation() -> dict[str, float]:
        return evaluate(
            training_model,
            processor,
            eval_records,
            batch_size=config.per_device_eval_batch_size,
            max_length=config.max_length,
            truncation=config.truncation,
            num_answered=config.eval_samples,
            samples_dir=output_dir / SAMPLES_DIR,
            step=trainer.state.global_step,
            share=(0, 1) if degrees is None else (degrees.replica, degrees.replicas),
            policy=ImagePolicy.scripts(config.max_pixels),
            on_progress=monitor.show_status,
        )

    arguments = training_arguments(
        output_dir,
        data,
        device=paddle.get_device().partition(":")[0],
        seed=config.seed,
        per_device_train_batch_size=config.per_device_train_batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_ratio=config.warmup_ratio,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        sharding="" if degrees is None or degrees.sharding == 1 else STAGE1,
        sharding_parallel_degree=1 if degrees is None else degrees.sharding,
        tensor_parallel_degree=1 if degrees is None else degrees.tensor,
    )
    trainer = FinetuneTrainer(
        training_model,
        arguments,
        data,
        save_weights=lambda folder: save_trained(config, model, processor, folder),
        load_weights=lambda folder: load_trained(config, model, folder),
        callbacks=monitor.callbacks,
        evaluate=run_evaluation if eval_records else None,
        eval_steps=config.eval_steps,
        eval_on_start=config.eval_on_start,
        degrees=degrees,
    )
    remove_default_callbacks(trainer)
    return trainer


def _format_metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _with_visualdl(config: FinetuneConfig) -> bool:
    return importlib.util.find_spec("visualdl") is not None if config.visualdl is None else config.visualdl
