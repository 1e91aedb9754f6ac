import pytest

from benchmarks.bench_cpu import COMPARISONS, parse_arguments, peers, table
from benchmarks.bench_model import READ_PROBE_BYTES
from benchmarks.shapes import Shapes
from tests.benchmarks.programs import ONE_LAYER, by, run, tables, write_peer

OURS = {f"{part}/{kind}" for part in ("decode", "prefill") for kind in ("int4", "int8", "bf16")} | {
    f"{part}/{kind}" for part in ("vit", "resampler") for kind in ("int8", "bf16")
}
BUNDLED = {"bundled/token", "bundled/image"}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    llama = write_peer(folder, "a llama", {"decode/Q4_0": [3.0, 2.0], "prefill/Q4_0": [4.0]})
    torch = write_peer(folder, "a torch", {"decode": [5.0], "prefill": [6.0], "vit": [7.0]})
    return run("bench_cpu.py", *ONE_LAYER, "--repeats", "1", "--llama", llama, "--torch", torch)


@pytest.mark.slow
def test_prints_every_part_in_every_format_and_the_peers(printed):
    figures = by("what", tables(printed)[0])
    torch = {f"torch {dtype} {part}" for dtype in ("float32", "bfloat16") for part in ("decode", "prefill", "vit")}
    assert set(figures) == OURS | BUNDLED | torch | {"llama decode/Q4_0", "llama prefill/Q4_0"}
    assert figures["llama decode/Q4_0"]["ms, best"] == "2000.00" and figures["llama decode/Q4_0"]["median"] == "2500.00"
    assert all(float(row["ms, best"]) > 0 for row in figures.values())
    with_bandwidth = {name for name, row in figures.items() if row["of plain reads"]}
    assert with_bandwidth == {"decode/int4", "decode/int8", "decode/bf16"}


@pytest.mark.slow
def test_names_the_peers_that_ran(printed):
    assert "llama: a llama." in printed and "torch float32: a torch." in printed
    assert "bundled: paddlemix of " in printed


@pytest.mark.slow
def test_compares_with_those_peers_only_that_reported(printed):
    compared = [(row["ours"], row["peer"]) for row in tables(printed)[1]]
    assert compared == [
        ("decode/int4", "llama decode/Q4_0"),
        ("decode/bf16", "torch float32 decode"),
        ("decode/bf16", "torch bfloat16 decode"),
        ("prefill/int4", "llama prefill/Q4_0"),
        ("prefill/int4", "torch float32 prefill"),
        ("vit/int8", "torch float32 vit"),
        ("vit/bf16", "torch float32 vit"),
    ]


def test_times_faster_bandwidth_and_share_follow_from_the_seconds():
    shapes = Shapes()
    # One step of the published layer in int4: 202.4 million weights in half a byte and a scale of 2 bytes for each 128,
    # and 289 keys and values of 4096 float32.
    read = 202_375_168 * (0.5 + 2 / 128) + 2 * 4 * 289 * 4096
    seconds = {"read": [2.0, 1.0], "matmul": [1.0], "decode/int4": [0.02, 0.01], "prefill/int4": [0.5]}
    seconds |= {"llama decode/Q4_0": [0.025, 0.03], "torch float32 prefill": [0.25], "bundled/token": [0.002]}
    figures, compared = tables(table(shapes, seconds))
    assert f"Plain memory reads: {READ_PROBE_BYTES / 1e9:.1f} GB/s." in table(shapes, seconds)
    decode = by("what", figures)["decode/int4"]
    assert float(decode["GB/s"]) == pytest.approx(read / 0.01 / 1e9, abs=0.05)
    assert decode["of plain reads"] == f"{read / 0.01 / READ_PROBE_BYTES:.0%}"
    assert (decode["ms, best"], decode["median"]) == ("10.00", "15.00")
    assert by("what", figures)["prefill/int4"]["tokens/s, GOPS"].startswith("576, ")
    assert by("what", figures)["bundled/token"]["tokens/s, GOPS"] == "500.0/s"
    faster = {(row["ours"], row["peer"]): (row["times faster"], row["aim"]) for row in compared}
    assert faster == {
        ("decode/int4", "llama decode/Q4_0"): ("2.50", "1.5"),
        ("prefill/int4", "torch float32 prefill"): ("0.50", "1.5"),
    }


def test_every_comparison_is_of_parts_that_are_timed():
    assert {row.ours for row in COMPARISONS} <= OURS | BUNDLED


def test_an_older_checkout_is_timed_by_the_same_script():
    commands = peers(parse_arguments(["--baseline", "an older checkout"]))
    assert list(commands) == ["", "baseline "]
    assert commands["baseline "] == f"{commands['']} --checkout 'an older checkout'"
