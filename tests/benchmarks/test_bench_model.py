import re

import pytest

from benchmarks.bench_model import parse_arguments
from benchmarks.peer import Peer
from benchmarks.shapes import Shapes, parts
from tests.benchmarks.programs import ONE_LAYER, by, run, tables, write_peer


def test_prints_a_row_for_each_part_beside_the_peer(tmp_path):
    seconds = dict.fromkeys(("vit", "resampler", "prefill", "decode"), [2.0, 1.0])
    peer = write_peer(tmp_path, "twice as slow", seconds)
    printed = run("bench_model.py", *ONE_LAYER, "--repeats", "2", "--peer", peer)
    table = by("part", *tables(printed))
    assert list(table) == ["ViT, 1024 patches", "resampler, 1024 patches", "prefill of 288", "decode after 288"]
    assert "Peer: twice as slow." in printed
    assert re.search(r"memory reads \d+\.\d GB/s, float32 matrix product \d+ GFLOPS", printed)
    for row in table.values():
        assert float(row["ms/layer"]) > 0 and float(row["layer-tokens/s"]) > 0
        assert row["peer ms/layer"] == "1000.0" and float(row["ours/peer"]) < 100
    assert table["decode after 288"]["of plain reads"].endswith("%")
    assert table["prefill of 288"]["of plain reads"] == ""


def test_a_peer_that_fails_is_named():
    with pytest.raises(SystemExit, match="false.*ended with status 1"):
        Peer("false")


def test_work_is_counted_for_the_published_shapes():
    by_name = {part.name: part for part in parts(Shapes())}
    # 4·4096² for the attention, 3·4096·11008 for the feed-forward layer: 0.81 GB in float32.
    assert by_name["decode"].weights * 4 == 809_500_672
    assert by_name["prefill"].operations == pytest.approx(288 * by_name["decode"].operations)
    assert by_name["vit"].weights == 4 * 1664**2 + 2 * 1664 * 8192


def test_shrinking_keeps_the_heads_width():
    small = Shapes().shrunk(16)
    assert (small.hidden // small.heads, small.vit_width // small.vit_heads) == (128, 104)
    assert (small.ffn, small.vit_mlp) == (688, 512)


@pytest.mark.parametrize("arguments", [["--shrink", "3"], ["--repeats", "0"], ["--dtype", "int8"]])
def test_impossible_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert arguments[0] in capsys.readouterr().err
