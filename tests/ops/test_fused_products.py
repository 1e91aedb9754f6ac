"""Operators that are there for a GPU: gate and up projection in one, and a plain 16-bit weight.

On a CPU they are composed of the operators that they replace, which their checks and their wiring are tested with.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops import backend
from paddlemix.ops.linear_w4 import linear_w4, quantize_w4
from paddlemix.ops.linear_w8 import linear_w8, quantize_w8
from paddlemix.ops.linear_w16 import linear_w16, pack_w16
from paddlemix.quantization.layers import QuantizedLinear, bound_swiglu

IN, OUT = 136, 40


def draw(*shape: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.3)


def packed(kind: str, seed: int) -> list[paddle.Tensor]:
    """The arrays of a random weight."""
    w = draw(IN, OUT, seed=seed)
    if kind == "bfloat16":
        return [pack_w16(w, "bfloat16")]
    return list(quantize_w4(w) if kind == "int4" else quantize_w8(w))


def product(kind: str, x: paddle.Tensor, arrays: list[paddle.Tensor]) -> paddle.Tensor:
    function = {"bfloat16": linear_w16, "int8": linear_w8, "int4": linear_w4}[kind]
    return function(x, *arrays, None, OUT)


KINDS = {"bfloat16": "w16", "int8": "w8", "int4": "w4"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 20])
def test_gate_and_up_in_one_are_the_two_products_and_the_activation(fused, kind, rows):
    x, gate, up = draw(2, rows, IN, seed=3), packed(kind, 1), packed(kind, 2)
    (actual,) = backend.run(f"paddlemix_swiglu_{KINDS[kind]}", x, *gate, *up, IN, OUT)
    expected = ops.swiglu(product(kind, x, gate), product(kind, x, up))
    np.testing.assert_array_equal(actual.numpy(), expected.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_other_sizes_are_refused(fused, kind):
    gate, up = packed(kind, 1), packed(kind, 2)
    with pytest.raises(OperatorError, match="x has shape"):
        backend.run(f"paddlemix_swiglu_{KINDS[kind]}", draw(1, IN + 8), *gate, *up, IN, OUT)
    with pytest.raises(OperatorError, match="weight has shape"):
        backend.run(f"paddlemix_swiglu_{KINDS[kind]}", draw(1, IN), *gate, *up, IN, OUT + 16)


def test_a_plain_weight_is_multiplied_and_the_bias_added(fused):
    x, w, bias = draw(2, 3, IN), draw(IN, OUT, seed=1), draw(OUT, seed=2)
    for given in (None, bias):
        (actual,) = backend.run("paddlemix_linear", x, w, given)
        expected = paddle.nn.functional.linear(x, w, given)
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=1e-5)
    for changed in ([draw(IN + 1, OUT), None], [draw(IN), None], [w, draw(OUT + 1)], [w.astype("float64"), None]):
        with pytest.raises(OperatorError, match="linear: "):
            backend.run("paddlemix_linear", x, *changed)


def layer(kind: str, seed: int, out_features: int = OUT) -> QuantizedLinear:
    made = QuantizedLinear(IN, out_features, kind)
    qweight, *scales = packed(kind, seed)
    made.fill(qweight, scales[0] if scales else None, None)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_layers_on_a_gpu_become_one_operator(fused, monkeypatch, kind):
    gate, up = layer(kind, 1), layer(kind, 2)
    with paddle.no_grad():
        assert bound_swiglu(gate, up, "cpu", paddle.float32) is None
        # what a CPU has under these names, as if it were a GPU
        monkeypatch.setattr(backend, "why_not", lambda *_: None)
        function = bound_swiglu(gate, up, "cuda", paddle.float32)
        x = draw(1, IN, seed=3)
        np.testing.assert_array_equal(function(x).numpy(), ops.swiglu(gate(x), up(x)).numpy())
        other = "int8" if kind == "int4" else "int4"
        assert bound_swiglu(gate, layer(other, 2), "cuda", paddle.float32) is None
