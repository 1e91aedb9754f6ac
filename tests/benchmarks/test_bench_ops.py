import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_ops import Speeds, floor, table
from benchmarks.kernel_cases import Kernel, copies, kernels, weight_bytes
from benchmarks.shapes import Shapes
from tests.backends import require_library
from tests.benchmarks.programs import ROOT, by, run, tables

# A machine with numbers that are easy to divide by: 10 GB/s from memory, 100 GB/s in the cache, 100 GFLOPS, 10 µs.
SPEEDS = Speeds(memory=1e10, cache=1e11, operations=1e11, call=1e-5)


def kernel(name="rms_norm", moved=0, source="memory", operations=0, rows=1):
    return Kernel(name, "some", moved, source, operations, lambda: None, rows)


def test_prints_a_row_for_each_shape_of_the_kernels_asked_for():
    require_library()
    printed = run("bench_ops.py", "--repeats", "1", "--only", "norm")
    (rows,) = tables(printed)
    small = [(k.name, k.shape) for k in kernels(Shapes().shrunk(16)) if "norm" in k.name]
    assert [(row["kernel"], row["shape"]) for row in rows] == small and len(small) == 4
    for row in rows:
        assert float(row["floor"]) > 0 and float(row["time"]) > 0 and float(row["plain Paddle"]) > 0
    assert re.search(
        r"memory reads [\d.]+ GB/s, copy in the cache [\d.]+ GB/s, .* call of an operator [\d.]+ µs", printed
    )


@pytest.mark.parametrize("timed", kernels(Shapes().shrunk(16)), ids=lambda k: f"{k.name}, {k.shape}")
def test_kernel_and_plain_paddle_are_given_the_same_work(fused, timed):
    import paddle

    with paddle.no_grad():
        ours, plain = (run() for run in timed.make())
    if isinstance(ours, tuple):
        ours, plain = ours[0], plain[0]
    assert ours.shape == plain.shape and ours.shape[-1] > 1
    if timed.source == "cache":  # the others take turns with several arrays
        np.testing.assert_allclose(ours.numpy(), plain.numpy(), atol=1e-4, rtol=1e-3)


def test_every_operator_of_the_library_is_timed():
    from paddlemix.ops.backend import OPERATORS

    assert {k.name for k in kernels(Shapes())} == {*OPERATORS, "attention_interleaved"}


def test_the_floor_is_what_takes_longest():
    assert floor(kernel(), SPEEDS, "avx2") == (1e-5, "call")
    assert floor(kernel(moved=10**9), SPEEDS, "avx2") == (0.1, "memory")
    assert floor(kernel(moved=10**9, source="cache"), SPEEDS, "avx2") == (0.01, "cache")
    assert floor(kernel(moved=10**9, operations=10**11), SPEEDS, "avx2") == (1.0, "arithmetic")


def test_integer_and_tile_instructions_lower_the_floor_of_the_kernels_that_use_them():
    def seconds(name, rows, instruction_set):
        return floor(kernel(name, operations=64 * 10**11, rows=rows), SPEEDS, instruction_set)[0]

    assert seconds("linear_w4", 288, "avx2") == 64
    assert seconds("linear_w4", 288, "avx512") == 16
    assert seconds("linear_w4", 288, "amx") == 2
    assert seconds("linear_w4", 8, "amx") == 16
    assert seconds("linear_w16", 288, "amx") == pytest.approx(4)
    assert seconds("linear_w16", 8, "amx") == 64
    assert seconds("swiglu", 288, "amx") == 64


def test_share_rates_and_ratio_follow_from_the_seconds():
    timed = kernel(moved=10**9, operations=10**9)
    row = by("kernel", *tables(table([timed], [(0.2, 0.5)], SPEEDS, "amx")))["rms_norm"]
    assert (row["floor"], row["set by"], row["time"], row["share"]) == ("100.000", "memory", "200.000", "50%")
    assert (row["GB/s"], row["GOPS"], row["plain Paddle"], row["times faster"]) == ("5.0", "5", "500.000", "2.5")


def test_weights_are_counted_with_their_scales():
    assert weight_bytes("int4", 4096, 11008) == 4096 * 11008 // 2 + 2 * 32 * 11008
    assert weight_bytes("int8", 4096, 11008) == 4096 * 11008 + 4 * 11008
    assert weight_bytes("bfloat16", 4096, 11008) == 2 * 4096 * 11008


def test_what_comes_from_memory_fits_into_no_cache_and_not_into_too_much_memory():
    for timed in kernels(Shapes()):
        if timed.source == "memory":
            assert 2**29 <= copies(timed.moved) * timed.moved < 2**30 or copies(timed.moved) == 64
    assert copies(1) == 64


def test_the_document_has_the_rows_of_the_program():
    text = (Path(ROOT) / "docs" / "kernels.md").read_text(encoding="utf-8")
    (documented,) = (rows for rows in tables(text) if rows and "set by" in rows[0])
    assert [(row["kernel"], row["shape"]) for row in documented] == [(k.name, k.shape) for k in kernels(Shapes())]
