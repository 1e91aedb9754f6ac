"""Learning curves become one image; panels without anything in them are left out."""

import pytest
from PIL import Image

from paddlemix.finetune.monitoring.learning_curves import SMOOTHING, LearningCurve, Panel, draw, panels_of_log, smooth

TRAINING = [{"step": step, "loss": 1.0 / step, "learning_rate": 1e-5} for step in range(1, 50)]
EVALUATION = {"step": 40, "eval_loss": 0.5}


def test_smoothing_keeps_a_line_and_flattens_noise():
    assert smooth([3.0] * 40) == [3.0] * 40
    noisy = smooth([0.0, 2.0] * 200)
    assert len(noisy) == 400 and max(noisy[20:-20]) - min(noisy[20:-20]) < 2 / SMOOTHING + 1e-9
    assert smooth([1.0, 5.0]) == [1.0, 5.0]


def test_scores_have_a_panel_where_there_are_any():
    assert [panel.title for panel in panels_of_log([*TRAINING, EVALUATION])] == ["loss", "learning rate"]
    panels = panels_of_log([*TRAINING, {**EVALUATION, "eval_iou_accuracy": 0.25}])
    assert [panel.title for panel in panels] == ["loss", "accuracy on the eval split", "learning rate"]
    assert panels[0].curves[1].points == [(40, 0.5)] and panels[1].curves[0].points == [(40, 0.25)]


@pytest.mark.parametrize("rows", [[], [EVALUATION], TRAINING[:1], TRAINING])
def test_any_log_can_be_drawn_over_an_older_file(tmp_path, rows):
    (tmp_path / "curves.png").write_bytes(b"old")
    draw(panels_of_log(rows), tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG" and image.width > 2 * image.height


def test_panels_stand_side_by_side(tmp_path):
    curve = LearningCurve("a", [(1, 1.0), (2, 0.5)])
    draw([Panel("one", [curve])] * 4, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width == 4 * 400
