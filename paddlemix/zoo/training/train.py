"""Train the bundled model, one stage after the other, on PaddleNLP's ``Trainer``.

``python -m paddlemix.zoo.training.train vision --output_dir runs/vision --max_steps 4000``
``python -m paddlemix.zoo.training.train joint --start runs/vision --output_dir runs/joint --max_steps 1500``
``python -m paddlemix.zoo.training.train anneal --start runs/joint --output_dir runs/anneal --max_steps 6000``

The same command again goes on where it was interrupted. ``--export_only`` writes the model directory of the newest
checkpoint and ends. Under ``python -m paddle.distributed.launch`` it trains on several processes or devices; on CPUs
add ``--backend gloo``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from pathlib import Path

import paddle
from paddlenlp.generation import GenerationConfig
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments, get_last_checkpoint

from ...errors import CheckpointError
from ...finetune.denormals import flush_denormals
from ...models.qwen_vl.modeling import QWenLMHeadModel
from ...models.qwen_vl.processing import QwenVLImageProcessor, QwenVLProcessor
from ...models.qwen_vl.tokenization import QWenVLTokenizer
from .. import DEFAULT_MODEL_DIR
from ..scenes.vocabulary import object_token_ids
from .dataset import SceneCollator, SceneDataset
from .heads import TrainingModel
from .recipe import IMAGE_SIZE, PATCH_SIZE, QUERY_GRID, STAGES, initialize, small_config

WEIGHTS_FILE = "model_state.pdparams"


class CurveLogger(TrainerCallback):
    """Appends the loss and its parts to ``curve.jsonl`` at every logging step."""

    def __init__(self, training_model: TrainingModel, path: Path) -> None:
        self.training_model = training_model
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if args.process_index or not logs or "loss" not in logs:
            return
        parts = {name: round(float(value), 4) for name, value in self.training_model.parts.items()}
        record = {"step": state.global_step, "time": round(time.time()), "loss": logs["loss"], "parts": parts}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def build_training_model(tokenizer: QWenVLTokenizer, head_weight: float) -> TrainingModel:
    model = QWenLMHeadModel(small_config(tokenizer))
    initialize(model)
    return TrainingModel(model, object_token_ids(tokenizer.mergeable_ranks), head_weight)


def load_weights(training_model: TrainingModel, path: Path) -> None:
    """Take over what a stage or a checkpoint saved; all of it and nothing else.

    Raises:
        CheckpointError: other names or shapes, as from another edition of the heads.
    """
    missing, unexpected = training_model.set_state_dict(paddle.load(str(path)))
    if missing or unexpected:
        raise CheckpointError(f"{path}: does not fit this training model; missing {missing}, unexpected {unexpected}")


def export(training_model: TrainingModel, tokenizer: QWenVLTokenizer, directory: Path) -> None:
    """Write the model without its training heads as a complete model directory, weights in bfloat16."""
    model = training_model.model
    model.generation_config = GenerationConfig(
        chat_format="chatml",
        max_window_size=1024,
        max_new_tokens=256,
        do_sample=False,
        eos_token_id=[tokenizer.eod_id, tokenizer.im_end_id],
        pad_token_id=tokenizer.eod_id,
    )
    model.save_pretrained(directory, dtype="bfloat16")
    QwenVLProcessor(tokenizer, QwenVLImageProcessor(image_size=IMAGE_SIZE)).save_pretrained(directory)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train one stage of the bundled model.")
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--output_dir", type=Path, required=True, help="checkpoints, curve.jsonl and the result")
    parser.add_argument("--start", type=Path, help="output directory of the stage before")
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=32, help="pictures for each step and process")
    parser.add_argument("--save_steps", type=int, default=500)
    parser.add_argument("--logging_steps", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, help="instead of the stage's own")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes, for each training process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--export_only", action="store_true", help="write OUTPUT_DIR/model from the newest checkpoint")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO)
    stage = STAGES[options.stage]
    arguments = TrainingArguments(
        output_dir=str(options.output_dir),
        device="cpu" if not paddle.is_compiled_with_cuda() else "gpu",
        per_device_train_batch_size=options.batch_size,
        max_steps=options.max_steps,
        learning_rate=stage.learning_rate if options.learning_rate is None else options.learning_rate,
        warmup_steps=stage.warmup_steps,
        lr_scheduler_type="linear" if stage.decay else "constant_with_warmup",
        weight_decay=0.02,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=options.logging_steps,
        save_steps=options.save_steps,
        save_total_limit=2,
        dataloader_num_workers=options.workers,
        disable_tqdm=True,
        seed=options.seed,
        report_to=[],
        remove_unused_columns=False,
    )
    paddle.seed(options.seed)
    if arguments.device == "cpu":
        flush_denormals()
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    training_model = build_training_model(tokenizer, stage.head_weight)
    if options.start is not None:
        load_weights(training_model, options.start / WEIGHTS_FILE)
    checkpoint = get_last_checkpoint(str(options.output_dir)) if options.output_dir.is_dir() else None
    if options.export_only:
        if checkpoint is None:
            raise CheckpointError(f"{options.output_dir}: holds no checkpoint-N folder to export")
        load_weights(training_model, Path(checkpoint) / WEIGHTS_FILE)
        export(training_model, tokenizer, options.output_dir / "model")
        return
    processes = max(1, int(os.environ.get("PADDLE_TRAINERS_NUM", "1")))
    dataset = SceneDataset(
        tokenizer,
        stage.conversations,
        options.max_steps * options.batch_size * processes,
        image_size=IMAGE_SIZE,
        grid=QUERY_GRID,
        patch_grid=IMAGE_SIZE // PATCH_SIZE,
        first_seed=stage.first_seed,
    )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        model=training_model,
        args=arguments,
        train_dataset=dataset,
        data_collator=SceneCollator(QwenVLImageProcessor(image_size=IMAGE_SIZE), tokenizer.eod_id),
        callbacks=[CurveLogger(training_model, options.output_dir / "curve.jsonl")],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if arguments.process_index == 0:
        paddle.save(training_model.state_dict(), str(options.output_dir / WEIGHTS_FILE))
        export(training_model, tokenizer, options.output_dir / "model")


if __name__ == "__main__":
    main()
