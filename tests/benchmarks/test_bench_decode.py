import pytest

from tests.benchmarks.programs import ROOT, run, tables


@pytest.mark.slow
def test_every_part_is_timed_on_both_checkouts():
    (rows,) = tables(run("bench_decode.py", "--rounds", "1", "--baseline", str(ROOT)))
    assert len(rows) == 7
    for row in rows:
        assert float(row["this / baseline"]) > 0 or row["µs of one thread"].startswith("Python")
