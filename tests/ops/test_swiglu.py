import numpy as np
import paddle

from paddlemix import ops


def test_the_first_argument_is_the_gate():
    gate, up = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    actual = ops.swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)).numpy()
    np.testing.assert_allclose(actual, gate / (1 + np.exp(-gate)) * up, rtol=0, atol=1e-6)
    assert np.abs(actual - up / (1 + np.exp(-up)) * gate).max() > 1e-2
