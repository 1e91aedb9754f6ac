"""Train the bundled model, one stage after the other, with the trainer of the fine-tuning tool.

``python -m examples.bundled_model.training.train vision --output_dir runs/vision --max_steps 4000``
``python -m examples.bundled_model.training.train joint --start runs/vision --output_dir runs/joint --max_steps 1500``
``python -m examples.bundled_model.training.train anneal --start runs/joint --output_dir runs/anneal --max_steps 6000``

Or from a model that is there:
``python -m examples.bundled_model.training.train heads --start MODEL_DIR --output_dir runs/heads --max_steps 150``
``python -m examples.bundled_model.training.train refine --start runs/heads --output_dir runs/refine --max_steps 2000``

The same command again goes on where it was interrupted. ``--export_only`` writes the model directory of the newest
checkpoint and ends. Under ``python -m paddle.distributed.launch`` it trains on several processes or devices; on CPUs
add ``--backend gloo``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddlenlp.generation import GenerationConfig
from paddlenlp.trainer import TrainerCallback

from paddlemix.checkpoint import dtypes
from paddlemix.checkpoint.readers.safetensors_file import read_safetensors
from paddlemix.checkpoint.writer import TensorSource, write_safetensors
from paddlemix.cli import common as cli
from paddlemix.data.loading import BatchLoader
from paddlemix.errors import CheckpointError
from paddlemix.finetune.checkpoints import newest_checkpoint, remove_incomplete_checkpoints
from paddlemix.finetune.monitoring import monitor_training, remove_default_callbacks
from paddlemix.finetune.trainer import FinetuneTrainer, training_arguments
from paddlemix.finetune.training_data import TrainingData
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLImageProcessor, QwenVLProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.parallel.processes import init_process
from paddlemix.utils.files import CONFIG_FILE
from paddlemix.zoo import DEFAULT_MODEL_DIR

from ..scenes.vocabulary import digit_token_ids, object_token_ids
from .curve import CURVE_FILE
from .dataset import SceneCollator, SceneDataset
from .heads import TrainingModel
from .recipe import IMAGE_SIZE, PATCH_SIZE, QUERY_GRID, STAGES, Stage, initialize, small_config

WEIGHTS_FILE = "training_model.safetensors"


class SceneData(TrainingData):
    """Step ``s`` shows the scenes from ``s`` x processes x batch size on, each process its own part."""

    accumulation = 1

    def __init__(self, stage: Stage, tokenizer: QWenVLTokenizer, steps: int, batch_size: int, workers: int) -> None:
        self.steps = steps
        self._batch_size = batch_size
        self._workers = workers
        self._scenes = SceneDataset(
            tokenizer,
            stage.conversations,
            image_size=IMAGE_SIZE,
            grid=QUERY_GRID,
            patch_grid=IMAGE_SIZE // PATCH_SIZE,
            first_seed=stage.first_seed,
        )
        self._collator = SceneCollator(QwenVLImageProcessor(image_size=IMAGE_SIZE), tokenizer.eod_id)

    def loader(self, first_step: int) -> BatchLoader:
        parts = [self._part(step) for step in range(first_step, self.steps)]
        return BatchLoader(self._scenes, parts, self._collator, self._workers)

    def _part(self, step: int) -> range:
        first = (step * dist.get_world_size() + dist.get_rank()) * self._batch_size
        return range(first, first + self._batch_size)

    def tokens(self, step: int) -> int:
        """Of the images alone; how long the texts are is not known before they are drawn."""
        return self._batch_size * dist.get_world_size() * QUERY_GRID**2

    def epochs(self, step: int) -> float:
        return step / self.steps

    def source_locations(self, record_ids: Sequence[int]) -> list[str]:
        return []


class PartsLogger(TrainerCallback):
    """Appends the loss and its parts to ``curve.jsonl`` at every logging step."""

    def __init__(self, training_model: TrainingModel, path: Path) -> None:
        self.training_model = training_model
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        parts = {name: round(float(value), 4) for name, value in self.training_model.parts.items()}
        record = {"step": state.global_step, "time": round(time.time()), "loss": logs["loss"], "parts": parts}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def build_training_model(tokenizer: QWenVLTokenizer, head_weight: float) -> TrainingModel:
    model = QWenLMHeadModel(small_config(tokenizer))
    initialize(model)
    ranks = tokenizer.mergeable_ranks
    return TrainingModel(model, object_token_ids(ranks), digit_token_ids(ranks), head_weight)


def save_weights(training_model: TrainingModel, folder: Path) -> None:
    """Write the model and its training heads, float32, as ``training_model.safetensors``."""
    tensors = training_model.state_dict()
    sources = [
        TensorSource(name, tuple(value.shape), "float32", lambda value=value: [np.ascontiguousarray(value.numpy())])
        for name, value in tensors.items()
    ]
    write_safetensors(folder / WEIGHTS_FILE, sources, {"format": "pd"})


def load_weights(training_model: TrainingModel, folder: Path) -> None:
    """Take over what a stage or a checkpoint saved; all of it and nothing else.

    Raises:
        CheckpointError: other names or shapes, as from another edition of the heads.
    """
    path = folder / WEIGHTS_FILE
    stored, _ = read_safetensors(path)
    tensors = training_model.state_dict()
    if different := sorted(set(stored) ^ set(tensors)):
        name = different[0]
        raise CheckpointError(
            f"{path}: does not fit this training model: {name} is {'unknown' if name in stored else 'missing'}"
        )
    for name, tensor in tensors.items():
        if list(stored[name].shape) != list(tensor.shape) or stored[name].dtype != "float32":
            came = f"{stored[name].dtype} {list(stored[name].shape)}"
            raise CheckpointError(f"{path}: {name} is {came}, expected float32 {list(tensor.shape)}")
        tensor.set_value(np.ascontiguousarray(stored[name].load()).view(dtypes.STORAGE["float32"]))


def start_from(training_model: TrainingModel, tokenizer: QWenVLTokenizer, folder: Path) -> None:
    """Take over what a stage or a checkpoint saved, or the model of a model directory; its heads then begin anew.

    A model directory may have another vocabulary: tokens that it lacks keep their initial values.

    Args:
        tokenizer: of ``training_model``.

    Raises:
        CheckpointError: neither is there, or it does not fit.
    """
    if (folder / WEIGHTS_FILE).is_file():
        load_weights(training_model, folder)
        return
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder}: holds neither {WEIGHTS_FILE} nor {CONFIG_FILE}; expected the output directory of a stage, one "
            "of its checkpoints, or a model directory"
        )
    model = QWenLMHeadModel.from_pretrained(folder, dtype="float32")
    own = training_model.model.config
    if _geometry(model.config) != _geometry(own):
        raise CheckpointError(f"{folder}: a model of another geometry than this training's")
    state = model.state_dict()
    known = known_rows(QWenVLTokenizer.from_pretrained(folder), tokenizer, min(model.config.vocab_size, own.vocab_size))
    for name, axis in (("transformer.wte.weight", 0), ("lm_head.weight", 1)):
        rows = np.moveaxis(training_model.model.state_dict()[name].numpy(), axis, 0).copy()
        rows[list(known)] = np.moveaxis(state[name].numpy(), axis, 0)[list(known.values())]
        state[name] = paddle.to_tensor(np.ascontiguousarray(np.moveaxis(rows, 0, axis)))
    training_model.model.set_state_dict(state)


def _geometry(config: Any) -> dict[str, Any]:
    """The configuration without what depends on the vocabulary or on how weights are stored."""
    values = {name: value for name, value in config.to_dict().items() if name not in ("dtype", "vocab_size")}
    return {**values, "visual": {**values["visual"], "image_start_id": None}}


def known_rows(old: QWenVLTokenizer, new: QWenVLTokenizer, rows: int) -> dict[int, int]:
    """Rows of an embedding for ``new`` -> those of the same token, up to row ``rows`` of an embedding for ``old``.

    Special tokens and rows of no token stand behind the ranks in both.
    """
    before = old.mergeable_ranks
    ranks = {rank: before[token] for token, rank in new.mergeable_ranks.items() if token in before}
    first, old_first = len(new.mergeable_ranks), len(before)
    return {**ranks, **{first + place: old_first + place for place in range(rows - max(first, old_first))}}


def export(training_model: TrainingModel, tokenizer: QWenVLTokenizer, directory: Path) -> None:
    """Write the model without its training heads as a complete model directory, weights in bfloat16."""
    model = training_model.model
    model.generation_config = GenerationConfig(
        chat_format="chatml",
        # as far as it was trained: dialogues of three turns, images in the first question alone
        max_window_size=130,
        max_window_images=1,
        max_new_tokens=256,
        do_sample=False,
        eos_token_id=[tokenizer.eod_id, tokenizer.im_end_id],
        pad_token_id=tokenizer.eod_id,
    )
    model.save_pretrained(directory, dtype="bfloat16", overwrite=True)
    QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=IMAGE_SIZE)).save_pretrained(directory)


def parser() -> argparse.ArgumentParser:
    result = cli.Parser(description="Train one stage of the bundled model.")
    result.add_argument("stage", choices=sorted(STAGES))
    result.add_argument("--output_dir", type=Path, required=True, help="checkpoints, logs and the result")
    result.add_argument(
        "--start", type=Path, help="output directory of the stage before, one of its checkpoints, or a model directory"
    )
    result.add_argument("--max_steps", type=cli.positive, required=True)
    result.add_argument("--batch_size", type=cli.positive, default=32, help="images for each step and process")
    result.add_argument("--save_steps", type=cli.positive, default=100)
    result.add_argument("--logging_steps", type=cli.positive, default=20)
    result.add_argument("--learning_rate", type=float, help="instead of the stage's own")
    result.add_argument(
        "--workers",
        type=int,
        choices=range(65),
        metavar="N",
        default=1,
        help="processes that draw scenes, for each training process; 0: none",
    )
    result.add_argument("--seed", type=cli.positive, default=1)
    result.add_argument("--export_only", action="store_true", help="write OUTPUT_DIR/model from the newest checkpoint")
    result.add_argument("--tokenizer", type=Path, default=DEFAULT_MODEL_DIR, help="folder of the vocabulary")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    stage = STAGES[options.stage]
    init_process(None)
    paddle.seed(options.seed)
    tokenizer = QWenVLTokenizer.from_pretrained(options.tokenizer)
    training_model = build_training_model(tokenizer, stage.head_weight)
    checkpoint = newest_checkpoint(options.output_dir)
    if options.export_only:
        if checkpoint is None:
            raise CheckpointError(f"{options.output_dir}: holds no checkpoint-N folder to export")
        load_weights(training_model, checkpoint)
        export(training_model, tokenizer, options.output_dir / "model")
        return 0
    if options.start is not None and checkpoint is None:
        start_from(training_model, tokenizer, options.start)
    if not stage.trains_model:
        for parameter in training_model.model.parameters():
            parameter.stop_gradient = True
    data = SceneData(stage, tokenizer, options.max_steps, options.batch_size, options.workers)
    is_first = dist.get_rank() == 0
    if is_first:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        remove_incomplete_checkpoints(options.output_dir)
    training = training_arguments(
        options.output_dir,
        data,
        device=paddle.get_device().partition(":")[0],
        seed=options.seed,
        per_device_train_batch_size=options.batch_size,
        learning_rate=stage.learning_rate if options.learning_rate is None else options.learning_rate,
        warmup_steps=stage.warmup_steps,
        lr_scheduler_type="linear" if stage.decay else "constant_with_warmup",
        weight_decay=0.02,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=options.logging_steps,
        save_steps=options.save_steps,
        save_total_limit=2,
    )
    with monitor_training(options.output_dir, visualdl=False) as monitor:
        trainer = FinetuneTrainer(
            training_model,
            training,
            data,
            save_weights=lambda folder: save_weights(training_model, folder),
            load_weights=lambda folder: load_weights(training_model, folder),
            callbacks=[*monitor.callbacks, PartsLogger(training_model, options.output_dir / CURVE_FILE)],
        )
        remove_default_callbacks(trainer)
        trainer.train(checkpoint)
    if is_first:
        save_weights(training_model, options.output_dir)
        export(training_model, tokenizer, options.output_dir / "model")
    return 0


if __name__ == "__main__":
    cli.run(main)
