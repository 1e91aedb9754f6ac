"""Draw the curves of a training: ``python -m examples.bundled_model.training.curve OUT.png RUN [RUN …]``.

Each RUN is an output directory of ``train.py``; the runs are drawn one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paddlemix.cli import common as cli
from paddlemix.errors import ConfigurationError
from paddlemix.finetune.monitoring import learning_curves
from paddlemix.utils.files import read_json_lines

CURVE_FILE = "curve.jsonl"
MAX_CURVE_BYTES = 1 << 30
SHOWN = ("text", "kind", "box")


def read_curve(run: Path) -> list[dict]:
    """The records of ``curve.jsonl`` by rising step; of a step that was repeated after an interruption, the last."""
    lines = read_json_lines(run / CURVE_FILE, limit=MAX_CURVE_BYTES, error=ConfigurationError)
    by_step = {}
    for number, record in lines:
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ConfigurationError(f"{run / CURVE_FILE}:{number}: expected an object with a step, got {record!r:.80}")
        by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]


def draw(runs: Sequence[Path], path: Path) -> None:
    """Write a PNG with one panel for each of ``SHOWN``: the batch's loss, and its running mean."""
    parts: dict[str, list[learning_curves.LearningCurve]] = {part: [] for part in SHOWN}
    first_step = 0
    for run in runs:
        records = read_curve(run)
        for part, drawn in parts.items():
            points = [(first_step + r["step"], r["parts"][part]) for r in records if part in r["parts"]]
            drawn.append(learning_curves.LearningCurve(run.name, points, smoothed=True))
        first_step += records[-1]["step"]
    learning_curves.draw([learning_curves.Panel(f"loss: {part}", drawn) for part, drawn in parts.items()], path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description="Draw the curves of a training.")
    parser.add_argument("image", type=Path, help="the PNG to write")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=f"output directory with {CURVE_FILE}")
    options = parser.parse_args(arguments)
    for run in options.runs:
        if not (run / CURVE_FILE).is_file() or not (run / CURVE_FILE).stat().st_size:
            parser.error(f"{run}: has no {CURVE_FILE}, or an empty one")
    draw(options.runs, options.image)
    return 0


if __name__ == "__main__":
    cli.run(main)
