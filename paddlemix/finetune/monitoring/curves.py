"""Curves of a training as an image: losses, scores and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...utils.dependencies import require
from ...utils.files import replacing
from .training_log import Row

SMOOTHING = 15
"""Most points of which the mean is taken where a curve is drawn smoothed; of few points, a tenth of them."""

_FEW = 30  # points that are marked, so that they can be told from the line between them


@dataclass(frozen=True)
class Curve:
    """Points (step, value) by rising step, drawn as a line; ``smoothed``: pale, with its running mean over it."""

    label: str
    points: Sequence[tuple[float, float]]
    smoothed: bool = False


@dataclass(frozen=True)
class Panel:
    """A title and curves over one axis, which begins at 0 and ends at ``top``, or at the highest value."""

    title: str
    curves: Sequence[Curve]
    top: float | None = None


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG with the panels side by side; a file of that name is replaced. Curves without points are left out.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    require("matplotlib", "drawing training curves")
    # Not pyplot, which would keep the figure and choose a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0]):
        for curve in panel.curves:
            if curve.points:
                _draw_curve(axes, curve)
        axes.set(title=panel.title, xlabel="step")
        axes.set_ylim(bottom=0, top=panel.top)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        if axes.lines and (len(panel.curves) > 1 or panel.curves[0].label):
            axes.legend()
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


def _draw_curve(axes: object, curve: Curve) -> None:
    steps, values = zip(*curve.points)
    if curve.smoothed and len(steps) > 1:
        (line,) = axes.plot(steps, values, alpha=0.25)
        axes.plot(steps, smooth(values), color=line.get_color(), label=curve.label)
    else:
        axes.plot(steps, values, marker="." if len(steps) <= _FEW else None, label=curve.label)


def smooth(values: Sequence[float]) -> list[float]:
    """The mean around each value: of :data:`SMOOTHING`, fewer near the ends and where there are few."""
    half = min(SMOOTHING, len(values) // 10) // 2
    windows = (values[max(0, at - half) : at + half + 1] for at in range(len(values)))
    return [sum(part) / len(part) for part in windows]


def panels_of_log(rows: Sequence[Row]) -> list[Panel]:
    """What is drawn of a fine-tuning run: losses, scores where there are any, learning rate."""

    def curve(column: str, label: str, smoothed: bool = False) -> Curve:
        return Curve(label, [(row["step"], row[column]) for row in rows if column in row], smoothed)

    loss = Panel("loss", [curve("loss", "training", smoothed=True), curve("eval_loss", "held out")])
    scores = Panel(
        "held-out answers",
        [curve("eval_iou_accuracy", "boxes with IoU ≥ 0.5"), curve("eval_exact_answers", "exact answers")],
        top=1.03,  # a line along 1 is to be seen
    )
    rate = Panel("learning rate", [curve("learning_rate", "")])
    return [loss, scores, rate] if any(curve.points for curve in scores.curves) else [loss, rate]
