"""Fine-tuning from a configuration to a result: check the records, build the model, train, write."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import paddle
import paddle.distributed as dist

from ..adapters.config import LoRAConfig
from ..adapters.files import load_adapter, put_adapter
from ..adapters.injection import inject
from ..checkpoint import hub, load_into, open_checkpoint
from ..data.batching import BatchLayout, TrainingPlan
from ..data.checks import CheckReport, check_files
from ..data.collation import Collator
from ..data.dataset import ConversationDataset, PlanSampler, held_out
from ..data.loading import BatchLoader
from ..data.records import Record
from ..errors import ConfigurationError, PaddleMixError
from ..media import ImagePolicy
from ..models.qwen_vl.configuration import QWenVLConfig
from ..models.qwen_vl.modeling import QWenLMHeadModel
from ..models.qwen_vl.processing import QwenVLProcessor
from ..utils.allocator import keep_freed_memory
from ..utils.denormals import flush_denormals
from ..utils.device import resolve_device
from ..utils.files import write_text
from ..utils.progress import ProgressBar
from .checkpoints import told_as_checkpoint_error
from .configuration import FULL, QLORA, DataSource, FinetuneConfig
from .data_parallel import STAGE3
from .evaluation import evaluate
from .freezing import freeze
from .model import FinetuneModel
from .monitoring import Watch, remove_default_callbacks, watching
from .output import BAD_RECORDS_FILE, Run, begin_run, digest_of, find_run, occupy, write_result
from .processes import wait_for_all
from .randomness import seed_everything
from .trainer import FinetuneTrainer, TrainingData, training_arguments

SAMPLES_DIR = "samples"

Say = Callable[[str], Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class FinetuneResult:
    """output_dir: a complete model directory (mode full) or an adapter; metrics: ``train_loss`` and those of the last
    evaluation."""

    output_dir: Path
    metrics: dict[str, float]


@dataclass(frozen=True)
class CheckedData:
    """What the checks of the files left: training and, where asked for, evaluation records; ``problems``: the table of
    what was wrong, empty where nothing was."""

    train: CheckReport
    held_out: list[Record]
    problems: str


def finetune(config: FinetuneConfig, say: Say = lambda text: None) -> FinetuneResult:
    """Fine-tune a model. Called by every process of a distributed launch.

    A training that was interrupted goes on; one that is finished is left as it is.

    Args:
        say: told in a few lines what is done; by the first process alone.

    Raises:
        ConfigurationError, RecordError, AdapterError: options, records or names that cannot work, before the first
            step.
        TrainingError: a loss that is not finite, or a checkpoint of another training.
        TrainingInterruptedError: Ctrl-C or SIGTERM ended it after a step, with a checkpoint to go on from.
        ImageError: an image that cannot be read any more.
        CheckpointError, ModelNotFoundError, NotEnoughMemoryError: weights that cannot be read or written.
    """
    start_process(config.device)
    is_first = dist.get_rank() == 0
    say = say if is_first else lambda text: None
    output_dir = Path(config.output_dir)
    before = on_first(lambda: find_run(config))
    if before is not None and before.metrics is not None:
        say(
            f"{output_dir}: the training is finished already: {_listed(before.metrics)}; to train anew, also on "
            "changed records, name another output_dir"
        )
        return FinetuneResult(output_dir, before.metrics)
    directory = on_first(lambda: hub.resolve(config.model_name_or_path))
    processor = _processor(config, directory)
    data = on_first(lambda: checked_data(config, processor, say))
    run = Run(config.to_dict(), dist.get_world_size(), digest_of(record.digest for record in data.train.records))
    seed_everything(config.seed, 0)  # all processes begin with the same adapters
    model = build_model(config, directory)

    def begin() -> Path | None:
        held.enter_context(occupy(config, before))
        checkpoint = begin_run(output_dir, run, before)
        if data.problems:
            with told_as_checkpoint_error(output_dir / BAD_RECORDS_FILE):
                write_text(output_dir / BAD_RECORDS_FILE, data.problems + "\n")
        return checkpoint

    with contextlib.ExitStack() as held:
        checkpoint = on_first(begin)
        source = ConversationData(config, data.train, processor)
        watch = held.enter_context(watching(output_dir, visualdl=_with_visualdl(config)))
        trainer = make_trainer(config, model, processor, source, data.held_out, watch)
        train_loss = trainer.train(checkpoint)
        metrics = {"train_loss": train_loss, **trainer.metrics}
        finished = replace(run, metrics=metrics)
        with trainer.exchange.whole_weights():
            on_first(lambda: write_result(output_dir, finished, lambda folder: save(config, model, processor, folder)))
    say(f"{output_dir}: {_listed(metrics)}")
    return FinetuneResult(output_dir, metrics)


def check(config: FinetuneConfig, say: Say = lambda text: None) -> list[CheckReport]:
    """Check the model's settings and every record of ``data``, and train nothing; ``str`` of a report is a table. With
    ``eval_data`` its report comes second.

    Args:
        say: told how many records are checked.

    Raises:
        ConfigurationError: a file that cannot be read; a model that the mode cannot train.
        CheckpointError: settings of a model that cannot be.
    """
    check_model(config, config.model_name_or_path)
    processor = _processor(config, config.model_name_or_path)
    return [_checked(config, sources, processor, say) for sources in (config.data, config.eval_data) if sources]


# ---------------------------------------------------------------------------------------------------- processes


def start_process(device: str | None) -> None:
    """Choose the device of this process, and join the others where there are any.

    Raises:
        ConfigurationError: a device that Paddle does not see, or several processes without a way to talk.
    """
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if processes > 1 and device != "cpu" and paddle.device.is_compiled_with_cuda():
        device = f"gpu:{dist.ParallelEnv().device_id}" if paddle.device.cuda.device_count() else "cpu"
    device = resolve_device(device)
    paddle.set_device(device)
    if device == "cpu":
        flush_denormals()
        keep_freed_memory()
        if processes > 1 and os.environ.get("PADDLE_DISTRI_BACKEND") != "gloo":
            raise ConfigurationError(
                "device: several processes on CPUs need --backend gloo behind paddle.distributed.launch"
            )
    if processes > 1 and not dist.is_initialized():
        dist.init_parallel_env()


def on_first(work: Callable[[], _T]) -> _T:
    """What ``work`` returns in the first process, in all of them, however long it takes; its error likewise."""
    if dist.get_world_size() == 1:
        return work()
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [(work(), None)]
        except PaddleMixError as error:
            outcome = [(None, error)]
    wait_for_all()
    dist.broadcast_object_list(outcome, src=0)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


# ---------------------------------------------------------------------------------------------------- data


def _processor(config: FinetuneConfig, name_or_dir: str | Path) -> QwenVLProcessor:
    return QwenVLProcessor.from_pretrained(
        name_or_dir, exif_transpose=config.exif_transpose, background=config.background
    )


def checked_data(config: FinetuneConfig, processor: QwenVLProcessor, say: Say) -> CheckedData:
    """Check all records and split them.

    Raises:
        RecordError: bad records, unless they are to be skipped.
        ConfigurationError: nothing is left.
    """
    report = _checked(config, config.data, processor, say)
    problems = [report.table()] if report.problems else []
    say(str(report))
    report = report.usable(config.bad_records)
    evaluated: list[Record] = []
    if config.eval_data is not None:
        other = _checked(config, config.eval_data, processor, say)
        say(f"evaluation: {other}")
        problems += [other.table()] if other.problems else []
        evaluated = other.usable(config.bad_records).records
    elif config.eval_fraction:
        mask = held_out(report.records, config.eval_fraction)
        evaluated = [record for record, out in zip(report.records, mask) if out]
        report = report.select(~mask)
    return CheckedData(report, evaluated, "\n".join(problems))


def _checked(
    config: FinetuneConfig, sources: Sequence[DataSource], processor: QwenVLProcessor, say: Say
) -> CheckReport:
    return check_files(
        [source.path for source in sources],
        processor,
        max_length=config.max_length,
        truncation=config.truncation,
        image_check=config.image_check,
        workers=config.dataloader_num_workers,
        policy=ImagePolicy.scripts(config.max_pixels),
        boxes=config.boxes,
        begin=lambda count: say(f"checking {count} records"),
    )


class ConversationData(TrainingData):
    """The conversations of a run, by the plan of its epochs."""

    def __init__(self, config: FinetuneConfig, report: CheckReport, processor: QwenVLProcessor) -> None:
        layout = BatchLayout(
            rows=config.per_device_train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            processes=dist.get_world_size(),
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
        self._dataset = ConversationDataset(report.records, processor.tokenizer, config.max_length, config.truncation)
        self._collator = Collator.of(processor, ImagePolicy.scripts(config.max_pixels))

    def loader(self, first_step: int) -> BatchLoader:
        sampler = PlanSampler(self.plan, dist.get_rank(), first_step, self.steps)
        return BatchLoader(self._dataset, sampler, self._collator, self._workers)

    def tokens(self, step: int) -> int:
        epoch, within = self.plan.locate(step)
        return int(self.plan.epoch(epoch).step_tokens[within])

    def epochs(self, step: int) -> float:
        epoch, within = self.plan.locate(step)
        return epoch + within / self.plan.steps(epoch)

    def places(self, record_ids: Sequence[int]) -> list[str]:
        return [str(self.records[number].location) for number in np.unique(record_ids)]


# ---------------------------------------------------------------------------------------------------- model


def check_model(config: FinetuneConfig, name_or_dir: str | Path) -> QWenVLConfig:
    """The settings of the model to start from.

    Raises:
        ConfigurationError: a quantized model in another mode than qlora.
        CheckpointError: settings that cannot be.
    """
    settings = QWenVLConfig.from_pretrained(name_or_dir)
    if config.mode != QLORA and settings.quantization:
        raise ConfigurationError(f"mode: got {config.mode}, but {name_or_dir} is quantized; use mode qlora")
    return settings


def build_model(config: FinetuneConfig, directory: Path) -> QWenLMHeadModel:
    """The model of the mode, trainable where the mode and the options say so.

    Raises:
        ConfigurationError: a quantized model in another mode than qlora; a pattern that matches nothing.
        AdapterError: a target that matches nothing.
    """
    stored = check_model(config, directory).quantization
    quantization = config.quantization or (None if stored or config.mode != QLORA else "int4")
    on_gpu = paddle.get_device().startswith("gpu")
    dtype = config.dtype or ("bfloat16" if on_gpu else None)
    with ProgressBar("loading") as advance:
        model = QWenLMHeadModel.from_pretrained(directory, dtype=dtype, quantization=quantization, progress=advance)
    if config.mode == FULL:
        freeze(model, config.freeze)
        if getattr(model.generation_config, "chat_format", None) == "raw":
            model.generation_config.chat_format = "chatml"  # a base model learns to converse
    else:
        adapter = LoRAConfig(
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.lora_targets,
            modules_to_save=config.modules_to_save,
        )
        inject(model, adapter)
    return model


def save(config: FinetuneConfig, model: QWenLMHeadModel, processor: QwenVLProcessor, folder: Path) -> None:
    """Write the model with all that belongs to it (mode full), or its adapter."""
    if config.mode == FULL:
        model.write_pretrained(folder)
        processor.save_pretrained(folder)
    else:
        put_adapter(model, folder, base_name=config.model_name_or_path)


def restore(config: FinetuneConfig, model: QWenLMHeadModel, folder: Path) -> None:
    """Fill the model with what :func:`save` wrote.

    Raises:
        CheckpointError, AdapterError: it is of another model, or damaged.
    """
    if config.mode == FULL:
        load_into(model, open_checkpoint(folder, model.weight_table))
    else:
        load_adapter(model, folder, trainable=True)


# ---------------------------------------------------------------------------------------------------- training


def make_trainer(
    config: FinetuneConfig,
    model: QWenLMHeadModel,
    processor: QwenVLProcessor,
    data: ConversationData,
    evaluated: Sequence[Record],
    watch: Watch,
) -> FinetuneTrainer:
    """The trainer of a run."""
    training_model = FinetuneModel(model, config.loss_chunk_size, config.recompute)
    sharded = config.sharding == STAGE3 and dist.get_world_size() > 1
    if sharded:
        model.transformer.enable_recompute = False  # sharded layers recompute on their own
    output_dir = Path(config.output_dir)

    def run_evaluation() -> dict[str, float]:
        return evaluate(
            training_model,
            processor,
            evaluated,
            batch_size=config.per_device_eval_batch_size,
            max_length=config.max_length,
            truncation=config.truncation,
            answered=config.eval_samples,
            samples_dir=output_dir / SAMPLES_DIR,
            step=trainer.state.global_step,
            lockstep=sharded,
            policy=ImagePolicy.scripts(config.max_pixels),
            report=watch.activity,
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
    )
    trainer = FinetuneTrainer(
        training_model,
        arguments,
        data,
        save_weights=lambda folder: save(config, model, processor, folder),
        load_weights=lambda folder: restore(config, model, folder),
        callbacks=watch.callbacks,
        evaluate=run_evaluation if evaluated else None,
        eval_steps=config.eval_steps,
        eval_on_start=config.eval_on_start,
        sharding=config.sharding,
        sharded_layers=list(model.decoder_blocks[1]) if sharded else (),
    )
    remove_default_callbacks(trainer)
    return trainer


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _with_visualdl(config: FinetuneConfig) -> bool:
    return importlib.util.find_spec("visualdl") is not None if config.visualdl is None else config.visualdl
