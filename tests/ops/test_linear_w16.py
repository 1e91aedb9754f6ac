from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import ConfigurationError, OperatorError
from paddlemix.ops.linear_w16 import dequantize_w16, linear_w16, pack_w16
from tests.backends import each_instruction_set, matmul_precision
from tests.ops.exactness import assert_as_exact

DTYPES = ["bfloat16", "float16"]


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest, fused: None) -> Iterator[str]:
    """The kernels compute in each precision."""
    with matmul_precision(request.param):
        yield request.param


def multiplied(x, dtype, instruction_set, precision):
    """What the kernel multiplies: x, or x rounded to bfloat16."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    able = instruction_set == "amx" or (instruction_set == "avx512" and "avx512_bf16" in flags)
    rounds = able and precision == dtype == "bfloat16" and len(x) > 8
    return x.astype("bfloat16").astype("float32") if rounds else x


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make(rows, in_features, out_features, dtype, seed=0):
    """An activation, a packed weight, the float32 matrix that it stands for, and a bias."""
    w = paddle.to_tensor(draw(in_features, out_features, seed=seed) * 0.05)
    weight, rounded = pack_w16(w, dtype), w.astype(dtype).astype("float32").numpy()
    return paddle.to_tensor(draw(rows, in_features, seed=seed + 1)), weight, rounded, draw(out_features, seed=seed + 2)


def on_reference(x, weight, bias, out_features):
    with ops.using("reference"):
        return linear_w16(x, weight, bias, out_features)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1), (7, 5), (32, 16), (104, 33)])
def test_packing_is_rounding_and_its_inverse_gives_the_rounded_weight(any_backend, dtype, sizes):
    w = paddle.to_tensor(draw(*sizes))
    weight = pack_w16(w, dtype)
    assert weight.dtype == getattr(paddle, dtype)
    np.testing.assert_array_equal(dequantize_w16(weight, *sizes).numpy(), w.astype(dtype).astype("float32").numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_and_reference_pack_the_same_bits(fused, dtype):
    special = [
        0.0,
        -0.0,
        1e-45,
        6e-8,
        3e-8,
        6.1e-5,
        65504.0,
        65520.0,
        3.4e38,
        np.inf,
        -np.inf,
        1 + 2**-8,
        1 + 3 * 2**-8,
    ]
    w = paddle.to_tensor(np.concatenate([np.array(special, np.float32), draw(62) * 1e-4]).reshape(15, 5))
    with ops.using("reference"):
        expected = pack_w16(w, dtype)
    np.testing.assert_array_equal(pack_w16(w, dtype).view("int16").numpy(), expected.view("int16").numpy())


def test_a_weight_that_is_16_bit_already_keeps_its_bits(any_backend):
    w = paddle.to_tensor(draw(40, 20)).astype("bfloat16")
    again = dequantize_w16(pack_w16(w, "bfloat16"), 40, 20)
    np.testing.assert_array_equal(again.numpy(), w.astype("float32").numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 24), (2, 3, 24), (24,), (0, 24)])
def test_multiplies_the_last_axis_and_adds_the_bias(any_backend, dtype, shape):
    _, weight, w, bias = make(1, 24, 18, dtype)
    x = draw(*shape)
    for b in (None, bias):
        actual = linear_w16(paddle.to_tensor(x), weight, None if b is None else paddle.to_tensor(b), 18)
        np.testing.assert_allclose(actual.numpy(), x @ w + (0 if b is None else b), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1), (33, 17), (104, 312), (984, 104), (1664, 40), (4096, 33), (11008, 20)])
def test_kernel_is_as_exact_as_float32_products_of_the_same_numbers(precision, sizes, dtype):
    most, weight, w, bias = make(288, *sizes, dtype)
    tensor = paddle.to_tensor(bias)
    for rows in (1, 2, 5, 9, 16, 17, 123, 288):
        references = {}
        for name in each_instruction_set():
            if name == "portable" and rows > 17:
                continue  # slow, and no other code than that of fewer rows
            x = multiplied(most[:rows], dtype, name, precision)
            key = x.numpy().tobytes()
            if key not in references:
                exact = x.numpy().astype(np.float64) @ w.astype(np.float64) + bias
                references[key] = on_reference(x, weight, tensor, sizes[1]), exact
            assert_as_exact(linear_w16(most[:rows], weight, tensor, sizes[1]), *references[key])


def test_rounded_activations_stay_within_half_a_step(fused):
    x, weight, w, _ = make(40, 1664, 48, "bfloat16")
    exact = x.numpy().astype(np.float64) @ w.astype(np.float64)
    actual = linear_w16(x, weight, None, 48).numpy()
    bound = 2.0**-8 * (np.abs(x.numpy()) @ np.abs(w))  # 8 bits of mantissa: at most half of 2^-7 of each activation
    assert (np.abs(actual - exact) <= bound + 1e-5).all()
    assert np.sqrt(np.mean((actual - exact) ** 2)) < 0.003 * np.sqrt(np.mean(exact**2))


@pytest.mark.parametrize("rows", [9, 1025, 1032])
def test_all_rows_of_a_call_are_computed_in_one_precision(instruction_set, precision, rows):
    x, weight, w, _ = make(rows, 64, 16, "bfloat16")
    seen = multiplied(x, "bfloat16", instruction_set, precision).numpy().astype(np.float64)
    np.testing.assert_allclose(linear_w16(x, weight, None, 16).numpy(), seen @ w, rtol=0, atol=3e-6)


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_rows_of_very_different_size_are_each_exact(instruction_set, precision, rows):
    x, weight, w, _ = make(rows, 512, 40, "bfloat16")
    x = x * paddle.to_tensor(np.logspace(-25, 25, rows).astype(np.float32)).unsqueeze(1)
    exact = multiplied(x, "bfloat16", instruction_set, precision).numpy().astype(np.float64) @ w.astype(np.float64)
    error = np.abs(linear_w16(x, weight, None, 40).numpy() - exact).max(1) / np.abs(exact).max(1)
    assert error.max() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 8, 40, 280])
def test_the_number_of_threads_does_not_change_a_bit(instruction_set, precision, rows, dtype):
    x, weight, _, bias = make(rows, 1090, 120, dtype)
    bias = paddle.to_tensor(bias)
    before = ops.set_threads(1)
    results = []
    for threads in (1, 2, 3):
        ops.set_threads(threads)
        results.append(linear_w16(x, weight, bias, 120).numpy())
    ops.set_threads(before)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5, 12, 20])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_travels_as_in_float32(instruction_set, precision, rows, dtype, value):
    x = np.ones((rows, 64), np.float32)
    w = np.abs(draw(64, 36))
    x[rows // 2, 3] = value
    w[5, 30] = np.inf
    w[7, 31], w[9, 31] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = x @ w
    actual = linear_w16(paddle.to_tensor(x), pack_w16(paddle.to_tensor(w), dtype), None, 36).numpy()
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(actual[infinite], expected[infinite])
    finite = np.isfinite(expected)
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=2e-2)


def test_the_largest_float_does_not_overflow(instruction_set, precision):
    x = np.full((20, 32), np.finfo(np.float32).max, np.float32)
    w = np.zeros((32, 16), np.float32)
    w[3] = 0.5
    actual = linear_w16(paddle.to_tensor(x), pack_w16(paddle.to_tensor(w), "bfloat16"), None, 16)
    np.testing.assert_array_equal(actual.numpy(), x[:, :16] * np.float32(0.5))


def test_takes_views(instruction_set, precision):
    x, weight, w, _ = make(9, 80, 33, "bfloat16")
    wide = paddle.to_tensor(draw(81, 12))
    view = wide[1:, 1:10].transpose([1, 0])  # neither contiguous nor aligned
    expected = multiplied(view, "bfloat16", instruction_set, precision).numpy() @ w
    np.testing.assert_allclose(linear_w16(view, weight, None, 33).numpy(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("rows", [1, 4, 20])
def test_the_gradient_goes_to_the_activation(any_backend, rows):
    x, weight, w, bias = make(rows, 50, 21, "bfloat16")
    x.stop_gradient = False
    coefficients = draw(rows, 21, seed=5)
    (linear_w16(x, weight, paddle.to_tensor(bias), 21) * paddle.to_tensor(coefficients)).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), coefficients @ w.T, rtol=0, atol=2e-6)


def test_can_be_saved_in_a_program(any_backend, tmp_path):
    _, weight, w, bias = make(1, 40, 20, "bfloat16")

    class Linear(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", weight)
            self.register_buffer("bias", paddle.to_tensor(bias))

        def forward(self, x):
            return linear_w16(x, self.weight, self.bias, 20)

    path = str(tmp_path / "linear")
    paddle.jit.save(Linear(), path, input_spec=[paddle.static.InputSpec([None, 40], "float32")])
    x = draw(3, 40)
    loaded = paddle.jit.load(path)
    np.testing.assert_allclose(loaded(paddle.to_tensor(x)).numpy(), x @ w + bias, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x, weight, bias: (x[:, :30], weight, bias), "weight has shape"),
        (lambda x, weight, bias: (x, weight[:1], bias), "weight has shape"),
        (lambda x, weight, bias: (x, weight.astype("float32"), bias), "bfloat16 or float16"),
    ],
)
def test_refuses_what_does_not_fit(any_backend, change, words):
    x, weight, _, bias = make(2, 40, 20, "bfloat16")
    with pytest.raises(OperatorError, match=words):
        linear_w16(*change(x, weight, paddle.to_tensor(bias)), 20)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x, bias: (x, bias[:19]), "bias has shape"),
        (lambda x, bias: (x, bias.astype("float64")), "bias has another dtype"),
    ],
)
def test_kernel_refuses_a_bias_that_does_not_fit(fused, change, words):
    x, weight, _, bias = make(2, 40, 20, "bfloat16")
    x, bias = change(x, paddle.to_tensor(bias))
    with pytest.raises(OperatorError, match=words):
        linear_w16(x, weight, bias, 20)


def test_packing_refuses_other_dtypes_and_shapes():
    with pytest.raises(OperatorError, match="dtype must be bfloat16 or float16"):
        pack_w16(paddle.zeros([4, 4]), "int8")
    for w in (paddle.zeros([4]), paddle.zeros([0, 4]), paddle.zeros([4, 4], dtype="int32")):
        with pytest.raises(OperatorError, match="w must be float32"):
            pack_w16(w, "bfloat16")
    with pytest.raises(OperatorError, match="weight has shape"):
        dequantize_w16(pack_w16(paddle.zeros([4, 4]), "bfloat16"), 40, 4)


def test_an_unknown_precision_is_refused(fused):
    with pytest.raises(ConfigurationError, match="PADDLEMIX_MATMUL_PRECISION: expected one of float32, bfloat16"):
        ops.set_matmul_precision("tf32")
