"""The linear layers whose weights have 4 or 8 bits: what holds of every format."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops.linear_nf4 import LEVELS, quantize_scales
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact
from tests.ops.low_bit_cases import FORMATS, ROWS, SHAPES, Format, largest_rounding, make, rounded_activations


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> Format:
    """One format after the other."""
    return FORMATS[request.param]


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_multiplies_rounded_activations_exactly(kind, fused, shape):
    most, w, bias = make(max(ROWS), *shape)
    arrays, multiplied = kind.packed_for_kernel(w)
    rounded = rounded_activations(most)
    exact = rounded @ multiplied + bias
    rest = (*arrays, paddle.to_tensor(bias), shape[1])
    for rows in ROWS:
        reference = paddle.to_tensor(rounded[:rows].astype(np.float32) @ multiplied.astype(np.float32) + bias)
        x = paddle.to_tensor(most[:rows])
        for _ in each_instruction_set():
            assert_as_exact(kind.linear(x, *rest), reference, exact[:rows])


@pytest.mark.parametrize("rows", [1, 20])
def test_wide_layers_are_exact_too(kind, instruction_set, rows):
    x, w, _ = make(rows, 11008, 24)
    arrays, multiplied = kind.packed_for_kernel(w)
    actual = kind.linear(paddle.to_tensor(x), *arrays, None, 24)
    rounded = rounded_activations(x)
    reference = paddle.to_tensor(rounded.astype(np.float32) @ multiplied.astype(np.float32))
    assert_as_exact(actual, reference, rounded @ multiplied)


def test_plain_paddle_multiplies_what_the_arrays_stand_for(kind):
    x, w, bias = make(5, 300, 40)
    arrays, meant = kind.packed(w)
    with ops.using("reference"):
        actual = kind.linear(paddle.to_tensor(x), *arrays, paddle.to_tensor(bias), 40)
    np.testing.assert_allclose(actual.numpy(), x.astype(np.float64) @ meant + bias, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 5, 288])
def test_rounding_the_activations_stays_within_its_bound(kind, fused, rows):
    x, w, bias = make(rows, 1664, 48)
    arrays, multiplied = kind.packed_for_kernel(w)
    actual = kind.linear(paddle.to_tensor(x), *arrays, paddle.to_tensor(bias), 48).numpy()
    exact = x.astype(np.float64) @ multiplied + bias
    assert (np.abs(actual - exact) <= largest_rounding(x, multiplied) + 1e-5 * np.abs(exact).max()).all()
    # rounding errors are independent: together they are far below their bound
    assert np.sqrt(np.mean((actual - exact) ** 2)) < 0.02 * np.sqrt(np.mean(exact**2))


def test_a_row_gives_the_same_bits_alone_and_among_others_on_every_instruction_set(kind, fused):
    x, w, bias = make(530, 1664, 50)
    arrays, _ = kind.packed(w)
    run = lambda rows: kind.linear(paddle.to_tensor(rows), *arrays, paddle.to_tensor(bias), 50).numpy()  # noqa: E731
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results += [run(x[:48]), np.concatenate([run(x[i : i + 3]) for i in range(0, 48, 3)]), run(x[:1])]
    results.append(run(x))
    for result in results:
        np.testing.assert_array_equal(result, results[-1][: len(result)])


def test_the_number_of_threads_does_not_matter(kind, fused):
    x, w, _ = make(33, 512, 400)
    arrays, _ = kind.packed(w)
    before = ops.set_threads(1)
    try:
        for rows in (1, 4, 33):
            results = []
            for threads in (1, 2, 3):
                ops.set_threads(threads)
                results.append(kind.linear(paddle.to_tensor(x[:rows]), *arrays, None, 400).numpy())
            np.testing.assert_array_equal(results[1], results[0])
            np.testing.assert_array_equal(results[2], results[0])
    finally:
        ops.set_threads(before)


def test_leading_axes_are_rows(kind, any_backend):
    x, w, _ = make(6, 256, 40)
    arrays, _ = kind.packed(w)
    tensor = paddle.to_tensor(x)
    flat = kind.linear(tensor, *arrays, None, 40)
    np.testing.assert_array_equal(kind.linear(tensor.reshape([2, 3, 256]), *arrays, None, 40).numpy(),
                                  flat.numpy().reshape(2, 3, 40))  # fmt: skip
    np.testing.assert_array_equal(kind.linear(tensor[0], *arrays, None, 40).numpy().shape, [40])


def test_views_are_read_as_they_are(kind, any_backend):
    x, w, _ = make(8, 300, 20)
    wide = paddle.to_tensor(x)
    for view, array in ((wide[:, 1:200], x[:, 1:200]), (wide[::2, :130], x[::2, :130]), (wide.T[:, :8], x.T[:, :8])):
        on_cpu = any_backend == "cpu"
        arrays, weights = (kind.packed_for_kernel if on_cpu else kind.packed)(w[: array.shape[1]])
        actual = kind.linear(view, *arrays, None, 20).numpy()
        rounded = rounded_activations(array) if on_cpu else array
        np.testing.assert_allclose(actual, rounded @ weights.astype(np.float64), rtol=0, atol=2e-5)


def test_nothing_in_nothing_out(kind, any_backend):
    arrays, _ = kind.packed(np.ones((128, 16), np.float32))
    assert kind.linear(paddle.zeros([0, 128]), *arrays, None, 16).shape == [0, 16]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [3, 40])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(kind, instruction_set, rows, value):
    x, w, _ = make(rows, 300, 20)
    arrays, _ = kind.packed(w)
    clean = kind.linear(paddle.to_tensor(x), *arrays, None, 20).numpy()
    x[1, 200] = value
    actual = kind.linear(paddle.to_tensor(x), *arrays, None, 20).numpy()
    assert np.isnan(actual[1]).all()
    np.testing.assert_array_equal(np.delete(actual, 1, 0), np.delete(clean, 1, 0))


def test_tiny_and_huge_activations_keep_their_scale(kind, fused):
    _, w, _ = make(1, 128, 16)
    arrays, multiplied = kind.packed_for_kernel(w)
    for size in (1e-30, 1e30):
        x = np.full((1, 128), size, np.float32)
        actual = kind.linear(paddle.to_tensor(x), *arrays, None, 16).numpy()
        np.testing.assert_allclose(actual, x.astype(np.float64) @ multiplied, rtol=1e-4)
    assert not kind.linear(paddle.full([1, 128], 1e-38), *arrays, None, 16).numpy().any()


def test_gradient_reaches_the_activations_only(kind, any_backend):
    x, w, bias = make(6, 300, 40)
    arrays, meant = kind.packed(w)
    tensor, bias = paddle.to_tensor(x.reshape(2, 3, 300), stop_gradient=False), paddle.to_tensor(bias)
    out = kind.linear(tensor, *arrays, bias, 40)
    upstream = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    (out * paddle.to_tensor(upstream)).sum().backward()
    expected = upstream.astype(np.float64) @ meant.T.astype(np.float64)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_quantizing_gives_the_same_tiles_on_every_instruction_set(kind, fused):
    _, w, _ = make(1, 1000, 100)
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append([tensor.numpy() for tensor in kind.quantize(paddle.to_tensor(w))])
    for result in results[1:]:
        for one, other in zip(result, results[0]):
            np.testing.assert_array_equal(one, other)


def test_packing_and_reading_back_are_inverse(kind, any_backend):
    generator = np.random.default_rng(3)
    q = generator.integers(*kind.values, size=(200, 50), endpoint=True).astype(np.int8)
    tiles = kind.pack(paddle.to_tensor(q))
    assert tiles.dtype == paddle.uint8 and tiles.shape == [4, 2 * kind.lines_per_group, 16, 4]
    if kind.operator == "linear_nf4":
        expected = LEVELS[q]
        rest = [paddle.to_tensor(array) for array in quantize_scales(np.ones([4, 4, 16], np.float32), 200, 50)]
    else:
        expected, rest = q, [paddle.ones([4, 2, 16], dtype=kind.scale_dtype)]
    np.testing.assert_array_equal(kind.dequantize(tiles, *rest, 200, 50).numpy(), expected)


def test_wrong_arguments_are_refused(kind, any_backend):
    x, (weight, scales, *rest) = paddle.zeros([2, 300]), kind.packed(np.ones((300, 40), np.float32))[0]
    for message, arguments in {
        "weight has shape": (x, weight[:2], scales, *rest, None, 40),
        "scales has shape": (x, weight, scales[:2], *rest, None, 40),
        "weight must be uint8": (x, weight.astype("int32"), scales, *rest, None, 40),
        f"scales must be {kind.scale_dtype}": (x, weight, scales.astype("float64"), *rest, None, 40),
        "expected \\[": (paddle.zeros([2, 400]), weight, scales, *rest, None, 40),
        "weight has shape .*expected": (x, weight, scales, *rest, None, 56),
    }.items():
        with pytest.raises(OperatorError, match=f"{kind.operator}: .*{message}"):
            kind.linear(*arguments)


def test_a_bias_of_another_width_or_dtype_is_refused(kind, fused):
    x, arrays = paddle.zeros([2, 300]), kind.packed(np.ones((300, 40), np.float32))[0]
    with pytest.raises(OperatorError, match=f"{kind.operator}: bias has shape"):
        kind.linear(x, *arrays, paddle.zeros([41]), 40)
    with pytest.raises(OperatorError, match=f"{kind.operator}: bias has another dtype"):
        kind.linear(x, *arrays, paddle.zeros([40], dtype="float64"), 40)


def test_weights_that_cannot_be_packed_are_refused(kind, any_backend):
    with pytest.raises(OperatorError, match=f"{kind.operator}: w has shape"):
        kind.quantize(paddle.zeros([128]))
    with pytest.raises(OperatorError, match=f"{kind.operator}: w is float64, expected float32"):
        kind.quantize(paddle.zeros([128, 16], dtype="float64"))
    with pytest.raises(OperatorError, match=f"{kind.operator}: .* is float32, expected int8"):
        kind.pack(paddle.zeros([128, 16]))
