"""Tracing the model leaves nothing behind that the eager model stumbles over."""

from __future__ import annotations

import numpy as np
import paddle

from paddlemix.models.qwen_vl import attention_metadata


def test_tables_of_a_traced_program_are_not_kept():
    def tables(x):
        cos, _ = attention_metadata.rotary_tensors(48, 8, (10000.0,), "cpu")
        return x + cos[0, 1, 1] * attention_metadata.logn_tensor(48, 8, "cpu")[47]

    x = paddle.zeros([1])
    traced = paddle.jit.to_static(tables)(x).numpy()
    eager = tables(x).numpy()
    np.testing.assert_array_equal(traced, eager)
    np.testing.assert_allclose(eager, np.cos(0.1) * np.log(48) / np.log(8), rtol=1e-6)
    assert attention_metadata.logn_tensor(48, 8, "cpu") is attention_metadata.logn_tensor(48, 8, "cpu")
