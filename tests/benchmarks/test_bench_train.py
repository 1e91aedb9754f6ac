"""The program runs small from end to end, and what it prints can be read; no time is asserted."""

import json

import numpy as np
import pytest

from benchmarks import bench_train
from benchmarks.train_measurements import MEASUREMENTS, STEPS, drawn_lengths, workload
from tests.benchmarks.programs import ONE_LAYER, by, run, tables


def test_the_step_of_the_loss_is_measured_with_a_frozen_and_a_trained_head(monkeypatch):
    monkeypatch.setattr(bench_train, "measure", lambda name, **arguments: MEASUREMENTS[name](**arguments))
    options = bench_train.parse_arguments(["--shrink", "16", "--positions", "32", "--repeats", "1"])
    (rows,) = tables(bench_train.loss_part(options))
    assert [(row["head"], row["loss"]) for row in rows] == [
        (head, loss) for head in ("frozen", "trained") for loss in ("plain", "chunked")
    ]
    for row in rows[1::2]:
        assert float(row["time, of plain"]) > 0


def test_packed_rows_are_measured_beside_rows_grouped_by_length(monkeypatch):
    monkeypatch.setattr(bench_train, "measure", lambda name, **arguments: MEASUREMENTS[name](**arguments))
    monkeypatch.setattr(bench_train, "PACKING", ((64, "mostly short", 5, 32),))
    options = bench_train.parse_arguments(["--records", "8", "--repeats", "1"])
    (rows,) = tables(bench_train.packing_part(options))
    packed, grouped = (by("rows", rows)[name] for name in ("packed", "grouped by length"))
    assert int(packed["passes"]) <= int(grouped["passes"]) == 4  # two rows of up to 32 tokens in a pass
    assert float(grouped["times grouped"]) == 1 and float(packed["times grouped"]) > 0


def test_a_quick_trial_of_packing_is_small():
    cases = bench_train.shrunk_packing(16)
    assert sorted(case[1] for case in cases) == ["even", "mostly short"]
    assert all(2 <= shortest < longest <= budget <= 64 for budget, _, shortest, longest in cases)
    assert bench_train.shrunk_packing(1) == list(bench_train.PACKING)


@pytest.mark.parametrize("lengths", ["even", "mostly short"])
def test_lengths_of_conversations_are_spread_as_they_are_called(lengths):
    drawn = drawn_lengths(np.random.default_rng(0), lengths, 20, 500, 4000)
    assert drawn.min() >= 20 and drawn.max() <= 500
    assert np.median(drawn) == pytest.approx(260 if lengths == "even" else 60, rel=0.05)


@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_every_kind_of_step_gives_the_same_loss(mode):
    """Before its first step an adapter adds nothing, whatever its dropout draws."""
    losses = {name: workload("published", mode, 1, 264, 16, 1, 1, 512).run(step) for name, step in STEPS.items()}
    # The kernels of low-bit layers round activations, plain Paddle does not.
    assert max(losses.values()) - min(losses.values()) < 0.02 * max(losses.values())


@pytest.mark.slow
def test_the_whole_model_is_trained_for_a_step(tmp_path):
    file = tmp_path / "tables.md"
    printed = run("bench_train.py", "--only", "qlora", *ONE_LAYER, "--length", "300", "--output", str(file))
    assert file.read_text().strip() == printed.strip()
    (rows,) = tables(printed)
    assert float(rows[0]["peak GB"]) >= float(rows[0]["GB, model made"]) > 0 and float(rows[0]["s"]) > 0


def test_steps_of_a_model_are_one_row_for_each_mode_and_kind(monkeypatch):
    asked = []

    def measure(name, **arguments):
        asked.append(json.loads(json.dumps({"name": name, **arguments})))
        seconds = {step: [2.0, 4.0] for step in bench_train.STEPS} | {"plain Paddle": [6.0, 6.0]}
        return seconds if name == "step_times" else {"gigabytes": 1.5}

    monkeypatch.setattr(bench_train, "measure", measure)
    (rows,) = tables(bench_train.bundled_part(bench_train.parse_arguments([])))
    assert len(rows) == len(bench_train.MODES) * len(bench_train.STEPS)
    chunked = by("step", rows[:5])["chunked loss"]
    assert (
        chunked["tokens/s"] == f"{8 * 256 / 2:.0f}"
        and chunked["times plain"] == "2.25"
        and chunked["peak GB"] == "1.50"
    )
    assert (
        {entry["variant"] for entry in asked if entry["name"] == "step_memory"} == set(STEPS) == set(bench_train.STEPS)
    )
