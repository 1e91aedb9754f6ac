"""Learning curves as an image: losses, accuracies and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...utils.dependencies import require
from ...utils.files import replacing
from .training_log import Row

SMOOTHING = 15
"""Maximum window of the running mean; with few points a tenth of them."""

_MARKED_POINTS = 30  # up to so many points of a curve are marked


@dataclass(frozen=True)
class LearningCurve:
    """One line of a plot.

    Attributes:
        label: for the legend.
        points: (step, value) by ascending step.
        smoothed: whether to draw it pale, with its running mean over it.
    """

    label: str
    points: Sequence[tuple[float, float]]
    smoothed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: above it.
        curves: its lines.
        top: upper end of the value axis, which begins at 0; by default the highest value.
    """

    title: str
    curves: Sequence[LearningCurve]
    top: float | None = None


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG with the panels side by side, replacing an existing file. Curves without points are left out.

    Args:
        panels: at least one.
        path: of the file.

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


def _draw_curve(axes: Any, curve: LearningCurve) -> None:
    steps, values = zip(*curve.points)
    if curve.smoothed and len(steps) > 1:
        (line,) = axes.plot(steps, values, alpha=0.25)
        axes.plot(steps, smooth(values), color=line.get_color(), label=curve.label)
    else:
        axes.plot(steps, values, marker="." if len(steps) <= _MARKED_POINTS else None, label=curve.label)


def smooth(values: Sequence[float]) -> list[float]:
    """The centered running mean: of :data:`SMOOTHING` values, fewer near the ends and where there are few."""
    half = min(SMOOTHING, len(values) // 10) // 2
    windows = (values[max(0, at - half) : at + half + 1] for at in range(len(values)))
    return [sum(part) / len(part) for part in windows]


def panels_of_log(rows: Sequence[Row]) -> list[Panel]:
    """The panels of a fine-tuning run: losses, accuracies if there are any, learning rate."""

    def curve(column: str, label: str, smoothed: bool = False) -> LearningCurve:
        return LearningCurve(label, [(row["step"], row[column]) for row in rows if column in row], smoothed)

    loss = Panel("loss", [curve("loss", "training", smoothed=True), curve("eval_loss", "eval split")])
    scores = Panel(
        "accuracy on the eval split",
        [curve("eval_iou_accuracy", "boxes with IoU ≥ 0.5"), curve("eval_exact_answers", "exact answers")],
        top=1.03,  # keeps a line at 1 visible
    )
    rate = Panel("learning rate", [curve("learning_rate", "")])
    return [loss, scores, rate] if any(curve.points for curve in scores.curves) else [loss, rate]
