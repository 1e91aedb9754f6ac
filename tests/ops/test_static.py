"""The operators in programs that ``paddle.jit`` traces, saves and loads."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from paddlemix import ops

WIDTH, HEADS, HEAD_DIM, LENGTH = 16, 2, 8, 3


class Norms(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([WIDTH])
        self.bias = self.create_parameter([WIDTH])

    def forward(self, x):
        x, total = ops.rms_norm(x, self.weight, 1e-6)
        x, total = ops.rms_norm(x, self.weight, 1e-6, total)
        x, total = ops.layer_norm(x, self.weight, self.bias, 1e-6, total)
        return ops.layer_norm(x + total, self.weight, self.bias, 1e-6)[0]


class Activations(nn.Layer):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(WIDTH, 2 * WIDTH, bias_attr=False)
        self.bias = self.create_parameter([2 * WIDTH])

    def forward(self, x):
        x = ops.gelu_bias(self.wide(x), self.bias)
        return ops.swiglu(ops.swiglu(x), ops.swiglu(x[:, :, :WIDTH], x[:, :, WIDTH:]))


class Rotary(nn.Layer):
    def __init__(self, all_options):
        super().__init__()
        self.wide = nn.Linear(WIDTH, 3 * WIDTH, bias_attr=False)
        self.bias = self.create_parameter([3 * WIDTH])
        cos, sin = ops.rotary_tables(32, HEAD_DIM, 10000.0)
        self.cos, self.sin = (paddle.to_tensor(table[None]) for table in (cos, sin))
        self.positions = paddle.to_tensor([[4, 5, 6], [0, 1, 2]], dtype="int32")
        self.logn = paddle.linspace(1, 2, 32) if all_options else None
        self.table_index = paddle.zeros([2], dtype="int32") if all_options else None

    def forward(self, x):
        qkv = self.wide(x)
        query, key, value = ops.rotary_qkv(
            qkv, self.bias, HEADS, self.cos, self.sin, self.positions, logn=self.logn, table_index=self.table_index
        )
        return paddle.concat([query, key, value], axis=-1)


class CachedRotary(Rotary):
    """A step that writes into a cache of its own and returns it with the queries."""

    def forward(self, x):
        keys, values = (paddle.zeros([2, HEADS, LENGTH + 1, HEAD_DIM]) for _ in range(2))
        slots = paddle.ones([2], dtype="int32")
        query = ops.rotary_qkv_cache(
            self.wide(x),
            self.bias,
            HEADS,
            self.cos,
            self.sin,
            self.positions,
            keys,
            values,
            slots,
            logn=self.logn,
            table_index=self.table_index,
        )
        return paddle.concat([query, keys, values], axis=2)


@pytest.mark.parametrize(
    "make",
    [Norms, Activations, lambda: Rotary(False), lambda: Rotary(True)],
    ids=["norms", "activations", "rotary", "rotary with all options"],
)
def test_a_saved_program_gives_the_numbers_of_the_layer(any_backend, tmp_path, make):
    check_saved_program(make(), tmp_path)


def test_a_saved_program_writes_into_a_cache(fused, tmp_path):  # plain Paddle reads the slots, hence cannot be traced
    check_saved_program(CachedRotary(True), tmp_path)


def check_saved_program(layer, folder):
    layer.eval()
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32))
    with paddle.no_grad():
        expected = layer(x).numpy()
    paddle.jit.save(layer, str(folder / "layer"), input_spec=[InputSpec([None, LENGTH, WIDTH], "float32")])
    kernels = "paddlemix_" in (folder / "layer.json").read_text()
    assert kernels == (ops.mode() == "cpu")
    actual = paddle.jit.load(str(folder / "layer"))(x).numpy()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Norms, id="norms"),
        pytest.param(Activations, id="activations", marks=pytest.mark.slow),
        pytest.param(lambda: Rotary(True), id="rotary", marks=pytest.mark.slow),
    ],
)
def test_a_traced_layer_has_the_gradients_of_the_layer(any_backend, make):
    gradients = []
    for traced in (False, True):
        paddle.seed(3)
        layer = make()
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32))
        x.stop_gradient = False
        (paddle.jit.to_static(layer) if traced else layer)(x).square().sum().backward()
        gradients.append([x.grad.numpy(), *(parameter.grad.numpy() for parameter in layer.parameters())])
    for eager, static in zip(*gradients):
        np.testing.assert_allclose(static, eager, rtol=1e-5, atol=1e-6)
