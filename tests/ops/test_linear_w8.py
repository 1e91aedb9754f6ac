from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops.linear_w8 import dequantize_w8, pack_w8, quantize_w8
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact
from tests.ops.low_bit_cases import ROWS, SHAPES, largest_rounding, make, rounded_activations


def packed(w, groups=1):
    """Tiles and scales of a float32 array, and the array they stand for."""
    weight, scales = quantize_w8(paddle.to_tensor(w), groups)
    return weight, scales, dequantize_w8(weight, scales, *w.shape).numpy()


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_multiplies_rounded_activations_exactly(fused, shape, grouped):
    most, w, bias = make(max(ROWS), *shape)
    weight, scales, meant = packed(w, -(-shape[0] // 128) if grouped else 1)
    rounded = rounded_activations(most)
    exact = rounded @ meant.astype(np.float64) + bias
    rest = (weight, scales, paddle.to_tensor(bias), shape[1])
    for rows in ROWS:
        with ops.using("reference"):
            reference = ops.linear_w8(paddle.to_tensor(rounded[:rows].astype(np.float32)), *rest)
        x = paddle.to_tensor(most[:rows])
        for _ in each_instruction_set():
            assert_as_exact(ops.linear_w8(x, *rest), reference, exact[:rows])


@pytest.mark.parametrize("rows", [1, 20])
def test_wide_layers_are_exact_too(instruction_set, rows):
    x, w, _ = make(rows, 11008, 24)
    weight, scales, meant = packed(w)
    actual = ops.linear_w8(paddle.to_tensor(x), weight, scales, None, 24)
    rounded = rounded_activations(x)
    with ops.using("reference"):
        reference = ops.linear_w8(paddle.to_tensor(rounded.astype(np.float32)), weight, scales, None, 24)
    assert_as_exact(actual, reference, rounded @ meant.astype(np.float64))


@pytest.mark.parametrize("rows", [1, 5, 288])
def test_rounding_the_activations_stays_within_its_bound(fused, rows):
    x, w, bias = make(rows, 1664, 48)
    weight, scales, meant = packed(w)
    actual = ops.linear_w8(paddle.to_tensor(x), weight, scales, paddle.to_tensor(bias), 48).numpy()
    exact = x.astype(np.float64) @ meant.astype(np.float64) + bias
    assert (np.abs(actual - exact) <= largest_rounding(x, meant) + 1e-5 * np.abs(exact).max()).all()
    # rounding errors are independent: together they are far below their bound
    assert np.sqrt(np.mean((actual - exact) ** 2)) < 0.02 * np.sqrt(np.mean(exact**2))


def test_a_row_gives_the_same_bits_alone_and_among_others_on_every_instruction_set(fused):
    x, w, bias = make(530, 1664, 50)
    weight, scales, _ = packed(w)
    run = lambda rows: ops.linear_w8(paddle.to_tensor(rows), weight, scales, paddle.to_tensor(bias), 50).numpy()  # noqa: E731
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results += [run(x[:48]), np.concatenate([run(x[i : i + 3]) for i in range(0, 48, 3)]), run(x[:1])]
    results.append(run(x))
    for result in results:
        np.testing.assert_array_equal(result, results[-1][: len(result)])


def test_the_number_of_threads_does_not_matter(fused):
    x, w, _ = make(33, 512, 400)
    weight, scales, _ = packed(w)
    before = ops.set_threads(1)
    try:
        for rows in (1, 4, 33):
            results = []
            for threads in (1, 2, 3):
                ops.set_threads(threads)
                results.append(ops.linear_w8(paddle.to_tensor(x[:rows]), weight, scales, None, 400).numpy())
            np.testing.assert_array_equal(results[1], results[0])
            np.testing.assert_array_equal(results[2], results[0])
    finally:
        ops.set_threads(before)


def test_leading_axes_are_rows(any_backend):
    x, w, _ = make(6, 256, 40)
    weight, scales, _ = packed(w)
    tensor = paddle.to_tensor(x)
    flat = ops.linear_w8(tensor, weight, scales, None, 40)
    np.testing.assert_array_equal(ops.linear_w8(tensor.reshape([2, 3, 256]), weight, scales, None, 40).numpy(),
                                  flat.numpy().reshape(2, 3, 40))  # fmt: skip
    np.testing.assert_array_equal(ops.linear_w8(tensor[0], weight, scales, None, 40).numpy().shape, [40])


def test_views_are_read_as_they_are(any_backend):
    x, w, _ = make(8, 300, 20)
    wide = paddle.to_tensor(x)
    for view, array in ((wide[:, 1:200], x[:, 1:200]), (wide[::2, :130], x[::2, :130]), (wide.T[:, :8], x.T[:, :8])):
        weight, scales, meant = packed(w[: array.shape[1]])
        actual = ops.linear_w8(view, weight, scales, None, 20).numpy()
        rounded = rounded_activations(array) if any_backend == "cpu" else array
        np.testing.assert_allclose(actual, rounded @ meant.astype(np.float64), rtol=0, atol=2e-5)


def test_nothing_in_nothing_out(any_backend):
    weight, scales, _ = packed(np.ones((128, 16), np.float32))
    assert ops.linear_w8(paddle.zeros([0, 128]), weight, scales, None, 16).shape == [0, 16]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [3, 40])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(instruction_set, rows, value):
    x, w, _ = make(rows, 300, 20)
    weight, scales, _ = packed(w)
    clean = ops.linear_w8(paddle.to_tensor(x), weight, scales, None, 20).numpy()
    x[1, 200] = value
    actual = ops.linear_w8(paddle.to_tensor(x), weight, scales, None, 20).numpy()
    assert np.isnan(actual[1]).all()
    np.testing.assert_array_equal(np.delete(actual, 1, 0), np.delete(clean, 1, 0))


def test_tiny_and_huge_activations_keep_their_scale(fused):
    _, w, _ = make(1, 128, 16)
    weight, scales, meant = packed(w)
    for size in (1e-30, 1e30):
        x = np.full((1, 128), size, np.float32)
        actual = ops.linear_w8(paddle.to_tensor(x), weight, scales, None, 16).numpy()
        np.testing.assert_allclose(actual, x.astype(np.float64) @ meant, rtol=1e-4)
    assert not ops.linear_w8(paddle.full([1, 128], 1e-38), weight, scales, None, 16).numpy().any()


def test_gradient_reaches_the_activations_only(any_backend):
    x, w, bias = make(6, 300, 40)
    weight, scales, meant = packed(w)
    tensor, bias = paddle.to_tensor(x.reshape(2, 3, 300), stop_gradient=False), paddle.to_tensor(bias)
    out = ops.linear_w8(tensor, weight, scales, bias, 40)
    upstream = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    (out * paddle.to_tensor(upstream)).sum().backward()
    expected = upstream.astype(np.float64) @ meant.T.astype(np.float64)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_quantizing_gives_the_same_tiles_on_every_instruction_set(fused):
    _, w, _ = make(1, 1000, 100)
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append([tensor.numpy() for tensor in quantize_w8(paddle.to_tensor(w))])
    for result in results[1:]:
        np.testing.assert_array_equal(result[0], results[0][0])
        np.testing.assert_array_equal(result[1], results[0][1])


def test_quantizing_rounds_to_the_nearest_of_255_steps(any_backend):
    _, w, _ = make(1, 300, 40)
    for groups in (1, 3):
        _, scales, meant = packed(w, groups)
        assert scales.shape == [3, groups, 16]
        largest = np.stack([np.abs(part).max(0) for part in ([w] if groups == 1 else [w[:128], w[128:256], w[256:]])])
        np.testing.assert_allclose(
            scales.numpy().transpose(1, 0, 2).reshape(groups, -1)[:, :40], largest / 127, rtol=1e-6
        )
        step = (largest / 127).repeat(300 if groups == 1 else 128, 0)[:300]
        assert (np.abs(meant - w) <= 0.5001 * step).all()


def test_kernel_and_reference_quantize_alike(fused):
    _, w, _ = make(1, 1000, 100)
    w[:, 7] = 0
    w[5, 3], w[6, 4] = np.nan, np.inf
    w[:, 9] *= 1e-38
    for groups in (1, 8):
        kernel = quantize_w8(paddle.to_tensor(w), groups)
        with ops.using("reference"):
            reference = quantize_w8(paddle.to_tensor(w), groups)
        for a, b in zip(kernel, reference):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_packing_and_reading_back_are_inverse(any_backend):
    generator = np.random.default_rng(3)
    q = generator.integers(-127, 127, size=(200, 50), endpoint=True).astype(np.int8)
    tiles = pack_w8(paddle.to_tensor(q))
    assert tiles.dtype == paddle.uint8 and tiles.shape == [4, 64, 16, 4]
    scales = paddle.ones([4, 2, 16], dtype="float32")
    np.testing.assert_array_equal(dequantize_w8(tiles, scales, 200, 50).numpy(), q)


def test_tiles_lie_as_documented(any_backend):
    q = np.zeros((256, 32), np.int8)
    q[128 + 13, 17] = 3
    tiles = pack_w8(paddle.to_tensor(q)).numpy()
    changed = np.argwhere(tiles != 128)
    np.testing.assert_array_equal(changed, [[1, 35, 1, 1]])
    assert tiles[1, 35, 1, 1] == 131


def test_wrong_arguments_are_refused(any_backend):
    x, weight, scales = paddle.zeros([2, 300]), *packed(np.ones((300, 40), np.float32))[:2]
    for message, arguments in {
        "weight has shape": (x, weight[:2], scales, None, 40),
        "scales has shape": (x, weight, scales[:2], None, 40),
        "weight must be uint8": (x, weight.astype("int32"), scales, None, 40),
        "scales must be float32": (x, weight, scales.astype("float64"), None, 40),
        "expected \\[": (paddle.zeros([2, 400]), weight, scales, None, 40),
        "weight has shape .*expected": (x, weight, scales, None, 56),
    }.items():
        with pytest.raises(OperatorError, match=f"linear_w8: .*{message}"):
            ops.linear_w8(*arguments)


def test_a_bias_of_another_width_or_dtype_is_refused(fused):
    x, weight, scales = paddle.zeros([2, 300]), *packed(np.ones((300, 40), np.float32))[:2]
    with pytest.raises(OperatorError, match="linear_w8: bias has shape"):
        ops.linear_w8(x, weight, scales, paddle.zeros([41]), 40)
    with pytest.raises(OperatorError, match="linear_w8: bias has another dtype"):
        ops.linear_w8(x, weight, scales, paddle.zeros([40], dtype="float64"), 40)


def test_weights_that_cannot_be_packed_are_refused(any_backend):
    with pytest.raises(OperatorError, match="linear_w8: w has shape"):
        quantize_w8(paddle.zeros([128]))
    with pytest.raises(OperatorError, match="linear_w8: w is float64, expected float32"):
        quantize_w8(paddle.zeros([128, 16], dtype="float64"))
    with pytest.raises(OperatorError, match="linear_w8: q is float32, expected int8"):
        pack_w8(paddle.zeros([128, 16]))


def test_other_numbers_of_groups_are_refused(any_backend):
    with pytest.raises(OperatorError, match="linear_w8: groups is 2, expected 1 .* 3"):
        quantize_w8(paddle.zeros([300, 16]), 2)
