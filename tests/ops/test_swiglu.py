from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact, check_gradients


def exact(gate, up):
    gate, up = (np.asarray(array, np.float64) for array in (gate, up))
    return gate / (1 + np.exp(-gate)) * up


def make(rows, width, seed=0):
    return np.random.default_rng(seed).normal(0, 3, size=(2, rows, width)).astype(np.float32)


def test_the_first_argument_is_the_gate(any_backend):
    gate, up = make(3, 8)
    actual = ops.swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)).numpy()
    np.testing.assert_allclose(actual, exact(gate, up), rtol=0, atol=4e-6)
    assert np.abs(actual - exact(up, gate)).max() > 1e-2


def test_a_packed_tensor_has_the_gate_first(any_backend):
    gate, up = make(12, 7)
    packed = paddle.to_tensor(np.concatenate([gate, up], axis=-1).reshape(3, 4, 14))
    actual = ops.swiglu(packed)
    assert actual.shape == [3, 4, 7]
    np.testing.assert_array_equal(
        actual.numpy().reshape(12, 7), ops.swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)).numpy()
    )


@pytest.mark.parametrize("rows", [1, 5, 123])
@pytest.mark.parametrize("width", [1, 104, 123 * 8, 1664, 11008])
def test_kernel_is_as_exact_as_paddle(fused, rows, width):
    gate, up = make(rows, width)
    tensors = paddle.to_tensor(gate), paddle.to_tensor(up)
    with ops.using("reference"):
        reference = ops.swiglu(*tensors)
    expected = exact(gate, up)
    for _ in each_instruction_set():
        assert_as_exact(ops.swiglu(*tensors), reference, expected)


def test_every_value_is_exact_to_a_few_units_in_the_last_place(fused):
    gate = np.linspace(-87, 87, 200001).astype(np.float32)  # further out the result is below the normal floats
    actual = ops.swiglu(paddle.to_tensor(gate), paddle.ones([len(gate)])).numpy()
    nonzero = gate != 0
    error = np.abs(actual[nonzero] / exact(gate, 1.0)[nonzero] - 1)
    assert error.max() < 6 * 2**-24


def test_every_instruction_set_gives_the_same_bits(fused):
    gate, up = map(paddle.to_tensor, make(7, 1667))
    results = []
    for name in ops.INSTRUCTION_SETS:
        ops.limit_instruction_set(name)
        results.append(ops.swiglu(gate, up).numpy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_far_out_it_is_zero_or_the_identity(any_backend):
    gate = np.array([-1e30, -200, -100, -90, 0, 90, 100, 1e30], np.float32)
    actual = ops.swiglu(paddle.to_tensor(gate), paddle.ones([8])).numpy()
    np.testing.assert_allclose(actual, np.maximum(gate, 0), rtol=0, atol=1e-36)


def test_what_is_not_finite_stays_so_and_spoils_nothing_else(any_backend):
    gate, up = make(3, 32)
    gate[1, 7], gate[1, 8], up[2, 9] = np.nan, np.inf, np.inf
    actual = ops.swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)).numpy()
    bad = np.zeros(gate.shape, bool)
    bad[1, 7] = bad[1, 8] = bad[2, 9] = True
    assert np.isnan(actual[1, 7]) and np.isinf(actual[1, 8]) and np.isinf(actual[2, 9])
    np.testing.assert_allclose(actual[~bad], exact(gate[~bad], up[~bad]), rtol=0, atol=1e-5)


def test_views_are_read_as_they_are(any_backend):
    gate, up = make(8, 48)
    wide = [paddle.to_tensor(array) for array in (gate, up)]
    np.testing.assert_allclose(
        ops.swiglu(*(tensor[::2, 1:] for tensor in wide)).numpy(),
        exact(gate[::2, 1:], up[::2, 1:]), rtol=0, atol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(
        ops.swiglu(wide[0][:, 1:47]).numpy(), exact(gate[:, 1:24], gate[:, 24:47]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("shape", [[0, 8], [3, 0]])
def test_nothing_in_nothing_out(any_backend, shape):
    empty = paddle.zeros(shape)
    assert ops.swiglu(empty, empty).shape == shape
    assert ops.swiglu(empty).shape == [shape[0], shape[1] // 2]


@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
def test_gradients_match_finite_differences(any_backend, frozen):
    check_gradients(ops.swiglu, make(3, 5), frozen)


def test_packed_gradients_match_finite_differences(any_backend):
    check_gradients(ops.swiglu, make(3, 6)[:1])


def test_gradients_far_out_are_zero_or_up(fused):
    gate = paddle.to_tensor(np.array([-200, -100, 100, 200], np.float32), stop_gradient=False)
    up = paddle.full([4], 3.0)
    up.stop_gradient = False
    ops.swiglu(gate, up).sum().backward()
    np.testing.assert_allclose(gate.grad.numpy(), [0, 0, 3, 3], rtol=0, atol=1e-36)
    np.testing.assert_allclose(up.grad.numpy(), [0, 0, 100, 200], rtol=0, atol=1e-36)


def test_an_odd_packed_width_is_refused(any_backend):
    with pytest.raises(OperatorError, match="swiglu: the last axis of a packed gate and up must be even, got 7"):
        ops.swiglu(paddle.zeros([2, 7]))


def test_different_shapes_and_dtypes_are_refused(fused):
    with pytest.raises(OperatorError, match="swiglu: up has shape"):
        ops.swiglu(paddle.zeros([2, 8]), paddle.zeros([8]))
    with pytest.raises(OperatorError, match="up has another dtype"):
        ops.swiglu(paddle.zeros([2, 8]), paddle.zeros([2, 8], dtype="float64"))
