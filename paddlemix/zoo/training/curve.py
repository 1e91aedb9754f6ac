"""Draw the curves of a training: ``python -m paddlemix.zoo.training.curve OUT.png RUN [RUN …]``.

Each RUN is an output directory of ``train.py``; the runs are drawn one behind the other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ...dependencies import require

SHOWN = ("text", "kind", "box")
SMOOTHING = 15  # logged steps


def read_curve(run: Path) -> list[dict]:
    """The records of ``curve.jsonl`` by rising step; of a step that was repeated after an interruption, the last."""
    lines = (run / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    by_step = {record["step"]: record for record in map(json.loads, lines)}
    return [by_step[step] for step in sorted(by_step)]


def draw(runs: Sequence[Path], path: Path) -> None:
    """Write a PNG with one panel for each of ``SHOWN``: the batch's loss, and its running mean."""
    require("matplotlib", "drawing training curves")
    from matplotlib import pyplot

    curves = [(run.name, read_curve(run)) for run in runs]
    figure, panels = pyplot.subplots(1, len(SHOWN), figsize=(4 * len(SHOWN), 3), constrained_layout=True)
    for part, panel in zip(SHOWN, panels):
        first_step = 0
        for name, records in curves:
            points = [(first_step + r["step"], r["parts"][part]) for r in records if part in r["parts"]]
            if points:
                steps, losses = zip(*points)
                windows = [losses[max(0, end - SMOOTHING) : end] for end in range(1, len(losses) + 1)]
                means = [sum(window) / len(window) for window in windows]
                (line,) = panel.plot(steps, losses, alpha=0.25)
                panel.plot(steps, means, color=line.get_color(), label=name)
            first_step += records[-1]["step"]
        panel.set(title=f"loss: {part}", xlabel="step")
        panel.set_ylim(bottom=0)
        panel.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw([Path(name) for name in sys.argv[2:]], Path(sys.argv[1]))
