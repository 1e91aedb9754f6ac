"""The estimate of how many users a machine serves: its formulas, and what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paddlemix.cli.commands.plan import chosen_device, chosen_model, parser
from paddlemix.errors import ConfigurationError
from paddlemix.serving.capacity import DEVICES, Device, ModelSizes, Usage, capacity

# a model and a device whose numbers are round: a step reads 1 GB in 1 s, a position of a prompt takes 1 ms
MODEL = ModelSizes(2 * 10**9, 10**9, 1000, 1e6, 1e9, 100)
DEVICE = Device(10e9, 1e9, 1e9, 4, bandwidth_share=1.0, operations_share=1.0)
USAGE = Usage(prompt=2000, images=0, context=1000, answer=10, pause=0, speed=0)


def published(*options: str) -> ModelSizes:
    return chosen_model(parser("paddlemix plan").parse_args(options))


def test_a_step_reads_the_weights_once_and_the_cache_of_each_row():
    one = capacity(MODEL, DEVICE, USAGE, max_rows=1)
    assert one.step == pytest.approx(1.001) and one.prefill == pytest.approx(2.0)
    assert one.speed == pytest.approx(10 / (2.0 + 10.01)) and one.first_speed == pytest.approx(1 / 1.001)
    assert one.questions == pytest.approx(1 / 12.01) and one.users == 1
    four = capacity(MODEL, DEVICE, USAGE)
    assert four.rows == 4 and four.step == pytest.approx(1.004)
    assert four.speed == pytest.approx(10 / (4 * 2.0 + 10 * 1.004))
    assert four.questions == pytest.approx(1 / (2.0 + 10 * 1.004 / 4))
    # Little's law: as many run as there are rows
    assert four.questions * (USAGE.answer / four.speed) == pytest.approx(4)


def test_users_who_read_make_room_for_others():
    busy = capacity(MODEL, DEVICE, USAGE)
    reading = capacity(MODEL, DEVICE, replace(USAGE, pause=100.0))
    assert reading.questions == busy.questions
    assert reading.users == int(4 + 100 * busy.questions)


def test_a_prompt_reads_the_weights_at_least_once():
    assert capacity(MODEL, DEVICE, replace(USAGE, prompt=1)).prefill == pytest.approx(1.0)
    with_image = capacity(MODEL, DEVICE, replace(USAGE, images=1))
    assert with_image.prefill == pytest.approx(2.0 + 100 * 1e-3 + 1.0)


def test_rows_are_bounded_by_memory_and_by_the_speed_that_is_wanted():
    small = replace(DEVICE, memory=(2 * 10**9 + 2.5 * 1010 * 1000) / 0.9)
    assert capacity(MODEL, small, USAGE).rows == 2
    assert capacity(MODEL, DEVICE, replace(USAGE, speed=0.65)).rows == 2
    assert capacity(MODEL, DEVICE, USAGE, devices=2).speed > capacity(MODEL, DEVICE, USAGE).speed
    with pytest.raises(ConfigurationError, match="low-bit weights"):
        capacity(MODEL, replace(DEVICE, memory=2e9), USAGE)
    with pytest.raises(ConfigurationError, match=r"0\.8 tokens per second, fewer than the 5"):
        capacity(MODEL, DEVICE, replace(USAGE, speed=5))
    for wrong in ({"answer": 0}, {"pause": -1}, {"images": float("nan")}, {"context": 10**12}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            Usage(**wrong)


def test_the_published_model_has_the_sizes_that_it_is_known_for():
    whole, int4 = published(), published("--quantization", "int4")
    assert whole.weights == pytest.approx(19.3e9, rel=0.01) and whole.position == 1 << 19
    assert whole.position_operations == pytest.approx(2 * 6.47e9, rel=0.01) and whole.image_positions == 258
    assert int4.step_weights < whole.step_weights / 3
    assert published("--kv_cache_dtype", "float32").position == 1 << 20


def test_it_foretells_what_was_measured_on_two_cores():
    """benchmarks/results/low_bit_cpu.md: first token after 5.83 s, then 6.54 tokens per second behind 296 positions."""
    seen = capacity(
        published("--quantization", "int4"), DEVICES["cpu2"], Usage(prompt=38, context=300, speed=1), max_rows=1
    )
    assert seen.prefill == pytest.approx(5.83, rel=0.05) and seen.first_speed == pytest.approx(6.54, rel=0.05)


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scale_out.md"
ROWS = [
    ("H200", "bfloat16", "--gpu h200"),
    ("H100", "bfloat16", "--gpu h100"),
    ("A100, 80 GB", "bfloat16", "--gpu a100"),
    ("L40S", "bfloat16", "--gpu l40s"),
    ("L40S", "int8", "--gpu l40s --quantization int8"),
    ("RTX 4090", "int8", "--gpu 4090 --quantization int8"),
    ("RTX 4090", "int4", "--gpu 4090 --quantization int4"),
    ("L4", "int8", "--gpu l4 --quantization int8"),
    ("two cores with AMX", "int4, 1 token a second will do", "--gpu cpu2 --quantization int4 --speed 1"),
]


def row(name: str, weights: str, options: str) -> str:
    given = parser("paddlemix plan").parse_args(options.split())
    usage = Usage() if given.speed is None else Usage(speed=given.speed)
    it = capacity(chosen_model(given), chosen_device(given), usage)
    first = 1000 * (it.prefill + it.step)
    return f"| {name} | {weights} | {it.rows} | {it.users} | {it.speed:.1f} | {it.first_speed:.1f} | {first:,.0f} ms |"


def test_the_table_of_the_document_is_what_the_command_prints():
    table = "\n".join(row(*each) for each in ROWS)
    assert table in DOCUMENT.read_text(encoding="utf-8"), f"the rows are now:\n{table}"
