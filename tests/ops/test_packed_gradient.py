"""Gradients through packed weights: in chunks where they are many, and without keeping an unpacked weight."""

import gc
import importlib
import weakref

import numpy as np
import paddle
import pytest

from paddlemix.ops import backend
from paddlemix.ops.low_bit import IntegerFormat

# The package has functions of the same names.
linear_w4, linear_w8, linear_w16 = (
    importlib.import_module(f"paddlemix.ops.linear_{name}") for name in ("w4", "w8", "w16")
)
KINDS = {
    "w4": (linear_w4.linear_w4, linear_w4.dequantize_w4, linear_w4.quantize_w4),
    "w8": (linear_w8.linear_w8, linear_w8.dequantize_w8, linear_w8.quantize_w8),
    "w16": (linear_w16.linear_w16, linear_w16.dequantize_w16, lambda w: (linear_w16.pack_w16(w, "bfloat16"),)),
}


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_more_weights_than_are_unpacked_at_once_has_the_whole_gradient(kind):
    linear, dequantize, quantize = KINDS[kind]
    inputs, outputs, repeats = 32768, 2064, 43  # the second chunk has one tile
    few = np.random.default_rng(0).standard_normal((inputs, outputs // repeats), dtype=np.float32)
    packed = [paddle.concat([part] * repeats) for part in quantize(paddle.to_tensor(few))]
    x = paddle.ones([1, inputs])
    x.stop_gradient = False
    grad = np.random.default_rng(1).standard_normal((1, outputs), dtype=np.float32)
    (linear(x, *packed, None, outputs) * paddle.to_tensor(grad)).sum().backward()
    expected = dequantize(*packed, inputs, outputs).numpy() @ grad[0]
    np.testing.assert_allclose(x.grad.numpy()[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_paddle_keeps_no_unpacked_weight_for_the_backward_pass(kind, monkeypatch):
    linear, dequantize, quantize = KINDS[kind]
    packed = quantize(paddle.to_tensor(np.random.default_rng(0).standard_normal((64, 48), dtype=np.float32)))
    owner, name = (linear_w16, "_unpacked") if kind == "w16" else (IntegerFormat, "unpack")
    alive, unpacked = [], getattr(owner, name)

    def watched(*arguments):
        weight = unpacked(*arguments)
        alive.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(owner, name, watched)
    x = paddle.ones([2, 64])
    x.stop_gradient = False
    with backend.using("reference"):
        loss = linear(x, *packed, None, 48).sum()
        gc.collect()
        assert len(alive) == 1 and alive[0]() is None
        loss.backward()
    np.testing.assert_allclose(x.grad.numpy()[0], dequantize(*packed, 64, 48).sum(axis=1).numpy(), rtol=1e-5)
