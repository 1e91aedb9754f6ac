"""Mix a model with the one that its training began with: the weighted mean of their weights.

``python -m examples.bundled_model.training.mixing BEFORE AFTER OUTPUT --share 0.7``

After a short training the mean is often better than either: what both agree on stays, and the noise of the last steps
grows less. The two may have different vocabularies; OUTPUT has that of AFTER.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import paddle

from paddlemix.cli import common as cli
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

from .heads import TrainingModel
from .train import build_training_model, export, start_from


def mix(before: Path, after: Path, share: float) -> tuple[TrainingModel, QWenVLTokenizer]:
    """The mean of two model directories, and the tokenizer of the second. The training heads are new.

    Args:
        share: of ``after``, in [0, 1]. A token that ``before`` lacks is that of ``after`` alone.

    Raises:
        CheckpointError: one of them is missing, or of another geometry than this training's.
    """
    tokenizer = QWenVLTokenizer.from_pretrained(after)
    training_model = build_training_model(tokenizer, 0.0)
    start_from(training_model, tokenizer, after)
    trained = {name: tensor.clone() for name, tensor in training_model.model.state_dict().items()}
    start_from(training_model, tokenizer, before)
    with paddle.no_grad():
        for name, tensor in training_model.model.state_dict().items():
            tensor.set_value(tensor * (1.0 - share) + trained[name] * share)
    return training_model, tokenizer


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"got {text}, expected a number from 0 to 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description="Mix a model with the one that its training began with.")
    parser.add_argument("before", type=Path, help="model directory that the training began with")
    parser.add_argument("after", type=Path, help="model directory that it wrote")
    parser.add_argument("output", type=Path, help="model directory to write")
    parser.add_argument("--share", type=_share, default=0.5, help="of the second, from 0 to 1 (default: %(default)s)")
    options = parser.parse_args(arguments)
    export(*mix(options.before, options.after, options.share), options.output)
    return 0


if __name__ == "__main__":
    cli.run(main)
