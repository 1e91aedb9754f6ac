"""Curves are read with repeated steps counted once, and drawn as an image."""

import json

import pytest
from PIL import Image

from examples.bundled_model.training.curve import draw, main, read_curve


def write_run(folder, steps):
    folder.mkdir()
    records = [
        {"step": step, "time": position, "loss": 2.0, "parts": {"text": 1.0 / (position + 1), "kind": 0.5}}
        for position, step in enumerate(steps)
    ]
    (folder / "curve.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    return folder


def test_a_step_repeated_after_an_interruption_counts_once_as_it_was_last(tmp_path):
    records = read_curve(write_run(tmp_path / "run", [10, 20, 30, 20, 30, 40]))
    assert [(record["step"], record["time"]) for record in records] == [(10, 0), (20, 3), (30, 4), (40, 5)]


def test_the_curves_of_several_runs_become_one_image(tmp_path):
    runs = [write_run(tmp_path / name, [10, 20, 30]) for name in ("first", "second")]
    draw(runs, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.width > 3 * image.height
        assert len(set(image.convert("RGB").getdata())) > 100


@pytest.mark.parametrize("arguments", [[], ["curve.png"], ["curve.png", "absent"]])
def test_a_call_without_curves_is_one_line_and_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
