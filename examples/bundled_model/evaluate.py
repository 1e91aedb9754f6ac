"""Measure the bundled model, or another one that answers about drawn scenes, on scenes that no training has seen.

    python evaluate.py                                  all tasks, 500 scenes for each task and language
    python evaluate.py --count 50 --task refer          a quick look
    python evaluate.py --style fluent                   in a drawing style that training never shows
    python evaluate.py --model_name_or_path runs/mine --json scores.json
    python evaluate.py --adapter runs/robot             with what a fine-tuning has learned

Prints a Markdown table. Beside each score stand two baselines: the same model without an image (it sees an evenly gray
one), and a constant: a box in the center, or the answer that is right most often. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout works without being installed.
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
if (_CHECKOUT / "paddlemix" / "errors.py").is_file():
    sys.path.insert(0, str(_CHECKOUT))

from examples.bundled_model.scenes import evaluate  # noqa: E402
from examples.bundled_model.scenes.answering import answer_function  # noqa: E402
from examples.bundled_model.scenes.lexicon import ALL_STYLES, HELD_OUT_STYLES, STYLES  # noqa: E402
from paddlemix.cli import common as cli  # noqa: E402
from paddlemix.inference import load_model  # noqa: E402
from paddlemix.zoo import DEFAULT_MODEL  # noqa: E402


def _task_name(text: str) -> str:
    """A task's name, also where a plain hyphen stands for its dash."""
    typed = {task.name.replace("–", "-"): task.name for task in evaluate.TASKS}
    return typed.get(text, text)


def parser() -> argparse.ArgumentParser:
    result = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        "--model_name_or_path",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_DIR",
        help="the model to measure (default: %(default)s)",
    )
    result.add_argument("--adapter", metavar="DIR", help="a LoRA adapter to measure the model with")
    result.add_argument("--device", metavar="cpu|gpu|gpu:N", help="where to run (default: the first GPU, else the CPU)")
    result.add_argument(
        "--count",
        type=cli.positive,
        default=500,
        metavar="N",
        help="scenes per task and language (default: %(default)s)",
    )
    names = [task.name for task in evaluate.TASKS]
    result.add_argument(
        "--task",
        action="append",
        choices=names,
        type=_task_name,
        help="only this task; may be repeated (default: all)",
    )
    result.add_argument(
        "--style",
        choices=ALL_STYLES,
        help=f"draw all objects in this style; {', '.join(HELD_OUT_STYLES)} was not trained on (default: a mixture of "
        f"{', '.join(STYLES)})",
    )
    result.add_argument(
        "--batch_size", type=cli.positive, default=32, metavar="N", help="questions at once (default: %(default)s)"
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="write the scores to this file as well")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    loaded = load_model(options.model_name_or_path, device=options.device, adapter=options.adapter)
    results = evaluate.evaluate(
        answer_function(loaded.model, loaded.processor),
        count=options.count,
        size=loaded.processor.image_processor.image_size,
        style=options.style,
        batch=options.batch_size,
        only=[task for task in evaluate.TASKS if not options.task or task.name in options.task],
        progress=cli.note,
    )
    cli.output(evaluate.markdown_table(results))
    if options.json is not None:
        options.json.write_text(evaluate.to_json(results) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    cli.run(main)
