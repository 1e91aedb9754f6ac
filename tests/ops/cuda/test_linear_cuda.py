"""The products of few rows with weights in tiles, and the tiles' way back to a matrix, on the emulated device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from external_ops.harness import tiles
from tests.ops.cuda.emulation import BFLOAT16, FLOAT16, FLOAT32, DType, assert_accurate, emulation_only

# in_features, out_features, distance of x's rows beyond in_features, and elements by which x is shifted: words of x
# that can be read at once and such that cannot; one tile, an odd number of them, a part of one.
SHAPES = [(128, 16, 0, 0), (104, 40, 0, 0), (984, 33, 8, 0), (300, 17, 1, 1), (1664, 100, 0, 0)]
FORMATS = ["float16", "bfloat16", "int8", "int8 groups", "int4"]


@dataclass
class Weight:
    """Random weights in one format: the operator's name, its arguments, and the same as a float64 matrix."""

    operator: str
    arguments: list
    matrix: np.ndarray


def make_weight(format_name: str, arrays, random, in_features: int, out_features: int) -> Weight:
    shape = (in_features, out_features)
    stored = {"float16": FLOAT16, "bfloat16": BFLOAT16}.get(format_name)
    if stored is not None:
        encoded = stored.encode(random.normal(size=shape))
        packed = arrays.place(tiles.pack_w16(encoded.view(np.uint16)))
        return Weight("w16", [stored.code, packed], stored.decode(encoded))
    groups = 1 if format_name == "int8" else -(-in_features // tiles.GROUP)
    scales = random.uniform(0.01, 0.03, size=(groups, out_features))
    if format_name == "int4":
        q, scales = random.integers(-8, 8, size=shape), scales.astype(np.float16)
        arguments = [arrays.place(tiles.pack_w4(q)), arrays.place(tiles.pack_scales(scales))]
    else:
        q, scales = random.integers(-127, 128, size=shape), scales.astype(np.float32)
        arguments = [arrays.place(tiles.pack_w8(q)), arrays.place(tiles.pack_scales(scales)), groups]
    matrix = q * tiles.scale_of_inputs(scales.astype(np.float64), in_features)
    return Weight("w4" if format_name == "int4" else "w8", arguments, matrix)


def multiply(launchers, arrays, dtype: DType, x, weight: Weight, bias, gap: int = 0, shift: int = 0) -> np.ndarray:
    rows, in_features = x.shape
    out_features = weight.matrix.shape[1]
    # NaN between the rows: reading there would show.
    spread = np.full((rows, in_features + gap), np.nan)
    spread[:, :in_features] = x
    out = arrays.empty((rows, out_features), dtype.storage)
    stored_bias = None if bias is None else arrays.place(dtype.encode(bias))
    launchers.launch(
        f"linear_{weight.operator}", dtype.code, arrays.place(dtype.encode(spread), shift), in_features + gap,
        *weight.arguments, stored_bias, out, rows, in_features, out_features,
    )  # fmt: skip
    return dtype.decode(out)


def plain_product(dtype: DType, x, weight: Weight, bias) -> np.ndarray:
    product = x.astype(np.float32) @ weight.matrix.astype(np.float32)
    return dtype.round(product if bias is None else product + bias.astype(np.float32))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(("in_features", "out_features", "gap", "shift"), SHAPES)
def test_product_matches_float64(
    emulated, arrays, random, dtype, format_name, in_features, out_features, gap, shift
):  # fmt: skip
    weight = make_weight(format_name, arrays, random, in_features, out_features)
    launchers = emulated(f"linear_{weight.operator}")
    for rows, with_bias in [(1, False), (3, True), (8, True)]:
        x = dtype.round(random.normal(size=(rows, in_features)))
        bias = dtype.round(random.normal(size=out_features)) if with_bias else None
        out = multiply(launchers, arrays, dtype, x, weight, bias, gap, shift)
        exact = x @ weight.matrix + (0 if bias is None else bias)
        assert_accurate(out, exact, plain_product(dtype, x, weight, bias), dtype)


@emulation_only
@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
def test_gpus_without_matrix_instructions_match_float64(emulated, arrays, random, dtype, format_name, rows):
    weight = make_weight(format_name, arrays, random, 328, 24)
    launchers = emulated(f"linear_{weight.operator}")
    x, bias = dtype.round(random.normal(size=(rows, 328))), dtype.round(random.normal(size=24))
    launchers.set_capability(7)
    try:
        out = multiply(launchers, arrays, dtype, x, weight, bias)
    finally:
        launchers.set_capability(8)
    assert_accurate(out, x @ weight.matrix + bias, plain_product(dtype, x, weight, bias), dtype)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_inputs_shared_by_few_or_many_warps(emulated, arrays, random, format_name, multiprocessors):
    weight = make_weight(format_name, arrays, random, 2304, 80)
    launchers = emulated(f"linear_{weight.operator}")
    x = FLOAT16.round(random.normal(size=(2, 2304)))
    launchers.set_multiprocessors(multiprocessors)
    try:
        out = multiply(launchers, arrays, FLOAT16, x, weight, None)
    finally:
        launchers.set_multiprocessors(4)
    assert_accurate(out, x @ weight.matrix, plain_product(FLOAT16, x, weight, None), FLOAT16)


@pytest.mark.parametrize("format_name", FORMATS)
def test_nan_and_infinity_stay_in_their_rows(emulated, arrays, random, dtype, format_name):
    weight = make_weight(format_name, arrays, random, 136, 20)
    launchers = emulated(f"linear_{weight.operator}")
    x = dtype.round(random.normal(size=(4, 136)))
    finite = multiply(launchers, arrays, dtype, x, weight, None)
    x[1, 5], x[3, 3] = np.nan, -np.inf
    out = multiply(launchers, arrays, dtype, x, weight, None)
    np.testing.assert_array_equal(out[[0, 2]], finite[[0, 2]])
    assert np.isnan(out[1]).all()
    with np.errstate(invalid="ignore"):  # infinity times zero
        np.testing.assert_array_equal(out[3], -np.inf * weight.matrix[3])


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("in_features", "out_features", "shift"), [(128, 64, 0), (300, 72, 0), (104, 33, 0), (40, 80, 1)]
)
def test_dequantized_weights_are_the_rounded_matrix(
    emulated, arrays, random, dtype, format_name, in_features, out_features, shift
):  # fmt: skip
    weight = make_weight(format_name, arrays, random, in_features, out_features)
    out = arrays.empty((in_features, out_features), dtype.storage, shift)
    arguments = [*weight.arguments, out, in_features, out_features]
    emulated(f"linear_{weight.operator}").launch(f"dequantize_{weight.operator}", dtype.code, *arguments)
    np.testing.assert_array_equal(dtype.decode(out), dtype.round(weight.matrix.astype(np.float32)))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("rows", [9, 16, 31, 64])
def test_up_to_64_rows_match_float64(emulated, arrays, random, format_name, rows):
    dtype = BFLOAT16 if format_name == "bfloat16" else FLOAT16
    weight = make_weight(format_name, arrays, random, 264, 33)
    x, bias = dtype.round(random.normal(size=(rows, 264))), dtype.round(random.normal(size=33))
    x[4, 7], x[8, 3] = np.nan, np.inf  # which stay in their rows
    out = multiply(emulated(f"linear_{weight.operator}"), arrays, dtype, x, weight, bias, gap=8)
    kept = np.isfinite(x).all(axis=1)
    assert not np.isfinite(out[~kept]).any()
    exact, plain = x[kept] @ weight.matrix + bias, plain_product(dtype, x[kept], weight, bias)
    assert_accurate(out[kept], exact, plain, dtype)


@pytest.mark.parametrize(
    ("dtype", "rows", "in_features"),
    [(FLOAT16, 65, 128), (FLOAT16, 9, 129), (FLOAT32, 9, 128)],
    ids=["65", "9 that are read one by one", "9 without matrix instructions"],
)
def test_more_rows_than_the_kernels_take_are_refused(emulated, arrays, random, dtype, rows, in_features):
    weight = make_weight("int8", arrays, random, in_features, 16)
    with pytest.raises(AssertionError, match="error 1"):
        multiply(emulated("linear_w8"), arrays, dtype, np.zeros((rows, in_features)), weight, None)


def gated(launchers, arrays, dtype: DType, x, gate: Weight, up: Weight) -> np.ndarray:
    rows, in_features = x.shape
    out_features = gate.matrix.shape[1]
    out = arrays.empty((rows, out_features), dtype.storage)
    weights = [*gate.arguments, *up.arguments]
    if gate.operator == "w16":
        weights = [gate.arguments[1], up.arguments[1]]
    elif gate.operator == "w8":
        weights = [*gate.arguments[:2], *up.arguments[:2], gate.arguments[2]]
    stored = arrays.place(dtype.encode(x))
    launchers.launch(
        f"swiglu_{gate.operator}", dtype.code, stored, in_features, *weights, out, rows, in_features, out_features
    )
    return dtype.decode(out)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("rows", [1, 7])
def test_gate_and_up_in_one_match_float64(emulated, arrays, random, format_name, rows):
    dtype = BFLOAT16 if format_name == "bfloat16" else FLOAT16
    gate, up = (make_weight(format_name, arrays, random, 392, 40) for _ in range(2))
    x = dtype.round(random.normal(size=(rows, 392)) * 0.1)
    out = gated(emulated(f"linear_{gate.operator}"), arrays, dtype, x, gate, up)
    silu = lambda z: z / (1 + np.exp(-z))  # noqa: E731
    exact = silu(x @ gate.matrix) * (x @ up.matrix)
    parts = [plain_product(dtype, x, weight, None) for weight in (gate, up)]
    assert_accurate(out, exact, dtype.round(silu(parts[0]) * parts[1]), dtype)


def test_gate_and_up_are_refused_where_they_cannot_be_in_one(emulated, arrays, random):
    launchers = emulated("linear_w4")
    for dtype, rows, in_features in [(FLOAT16, 9, 128), (FLOAT32, 1, 128), (FLOAT16, 1, 132)]:
        weight = make_weight("int4", arrays, random, in_features, 16)
        with pytest.raises(AssertionError, match="error 1"):
            gated(launchers, arrays, dtype, np.zeros((rows, in_features)), weight, weight)


def multiply_row_major(launchers, arrays, dtype: DType, x, matrix, bias) -> np.ndarray:
    rows, (in_features, out_features) = x.shape[0], matrix.shape
    spread = np.full((rows, in_features + 4), np.nan)  # reading between the rows would show
    spread[:, :in_features] = x
    out = arrays.empty((rows, out_features), dtype.storage)
    stored_bias = None if bias is None else arrays.place(dtype.encode(bias))
    launchers.launch(
        "linear", dtype.code, arrays.place(dtype.encode(spread)), in_features + 4, arrays.place(dtype.encode(matrix)),
        stored_bias, out, rows, in_features, out_features,
    )  # fmt: skip
    return dtype.decode(out)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize(("in_features", "out_features"), [(4, 8), (76, 40), (328, 72), (1100, 136)])
def test_a_row_major_weight_matches_float64(emulated, arrays, random, dtype, in_features, out_features):
    launchers = emulated("linear")
    matrix = dtype.round(random.normal(size=(in_features, out_features)))
    for rows, with_bias in [(1, False), (3, True), (8, True)]:
        x = dtype.round(random.normal(size=(rows, in_features)))
        bias = dtype.round(random.normal(size=out_features)) if with_bias else None
        if rows == 8:
            x[2, 1] = np.nan
        out = multiply_row_major(launchers, arrays, dtype, x, matrix, bias)
        exact = x @ matrix + (0 if bias is None else bias)
        plain = dtype.round(x.astype(np.float32) @ matrix.astype(np.float32) + (0 if bias is None else bias))
        assert_accurate(out, exact, plain, dtype)


@emulation_only
def test_a_row_major_weight_is_refused_where_it_cannot_be_read(emulated, arrays):
    launchers = emulated("linear")
    for dtype, rows, shape in [
        (FLOAT16, 9, (8, 8)), (FLOAT32, 1, (8, 8)), (FLOAT16, 1, (6, 8)), (FLOAT16, 1, (8, 12)),
    ]:  # fmt: skip
        with pytest.raises(AssertionError, match="error 1"):
            multiply_row_major(launchers, arrays, dtype, np.zeros((rows, shape[0])), np.zeros(shape), None)
    launchers.set_capability(7)
    try:
        with pytest.raises(AssertionError, match="error 1"):
            multiply_row_major(launchers, arrays, FLOAT16, np.zeros((1, 8)), np.zeros((8, 8)), None)
    finally:
        launchers.set_capability(8)


@emulation_only
def test_the_rows_that_are_taken_depend_on_dtypes_and_device(emulated, arrays):
    device = emulated("device")
    x, shifted = (arrays.place(np.zeros(8, np.float16), offset) for offset in (0, 1))

    def rows(dtype: DType, stored: DType, x: np.ndarray = x, in_features: int = 128) -> int:
        return device.call_int64("linear_rows", dtype.code, stored.code, x, in_features)

    assert rows(FLOAT16, FLOAT16) == rows(BFLOAT16, BFLOAT16) == 64
    assert rows(FLOAT16, BFLOAT16) == rows(FLOAT32, FLOAT32) == 8
    assert rows(FLOAT16, FLOAT16, shifted) == rows(FLOAT16, FLOAT16, in_features=132) == 8
    device.set_capability(7)
    try:
        assert rows(FLOAT16, FLOAT16) == 8
    finally:
        device.set_capability(8)


def test_weights_off_their_alignment_are_refused(emulated, arrays):
    packed = arrays.place(tiles.pack_w8(np.zeros((128, 16), np.int64)), offset=4)
    scales, out = arrays.place(np.ones((1, 1, 16), np.float32)), arrays.empty((128, 16), np.float32)
    with pytest.raises(AssertionError, match="error 1"):
        emulated("linear_w8").launch("dequantize_w8", FLOAT32.code, packed, scales, 1, out, 128, 16)


def test_no_rows_are_no_work(emulated, arrays, random):
    weight = make_weight("bfloat16", arrays, random, 64, 16)
    assert multiply(emulated("linear_w16"), arrays, BFLOAT16, np.zeros((0, 64)), weight, None).shape == (0, 16)
