"""Tracing the model leaves nothing behind that the eager model stumbles over."""

from __future__ import annotations

import numpy as np
import paddle

from paddlemix.models.qwen_vl import rotary


def test_tables_of_a_traced_program_are_not_kept():
    def tables(x):
        cos, _ = rotary.rotary_tensors(48, 8, (10000.0,), "cpu")
        return x + cos[0, 1, 1] * rotary.logn_tensor(48, 8, "cpu")[47]

    x = paddle.zeros([1])
    traced = paddle.jit.to_static(tables)(x).numpy()
    eager = tables(x).numpy()
    np.testing.assert_array_equal(traced, eager)
    np.testing.assert_allclose(eager, np.cos(0.1) * np.log(48) / np.log(8), rtol=1e-6)
    assert rotary.logn_tensor(48, 8, "cpu") is rotary.logn_tensor(48, 8, "cpu")
