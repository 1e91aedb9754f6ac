"""Loss and gradients against the same in NumPy's double precision, and what is never in memory."""

import numpy as np
import paddle
import paddle.nn as nn
import pytest

from paddlemix.errors import OperatorError
from paddlemix.finetune import linear_cross_entropy as module
from paddlemix.finetune.linear_cross_entropy import head_cross_entropy, linear_cross_entropy
from paddlemix.ops.linear_w8 import quantize_w8
from paddlemix.quantization.layers import QuantizedLinear
from paddlemix.quantization.plan import INT8

WIDTH, VOCABULARY = 24, 67
IGNORED = -100


def problem(positions=37, labeled=0.6, seed=0):
    """Hidden states, weight and labels: float64, float64, int64."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, VOCABULARY, positions)
    labels[generator.random(positions) >= labeled] = IGNORED
    return (
        generator.standard_normal((positions, WIDTH)),
        generator.standard_normal((WIDTH, VOCABULARY)) * 0.4,
        labels,
    )


def oracle(hidden, weight, labels):
    """Loss, gradient of the hidden states, gradient of the weight."""
    logits = hidden @ weight
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(shifted).sum(axis=1))
    counted = np.flatnonzero(labels != IGNORED)
    loss = (normalizer[counted] - shifted[counted, labels[counted]]).sum()
    grad = np.zeros_like(logits)
    grad[counted] = np.exp(shifted[counted] - normalizer[counted, None])
    grad[counted, labels[counted]] -= 1
    return loss, grad @ weight.T, hidden.T @ grad


def tensor(array, dtype, trained=True):
    result = paddle.to_tensor(array.astype(dtype))
    result.stop_gradient = not trained
    return result


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("chunk_size", [None, 1, 5, 37, 1000])
def test_loss_and_gradients_equal_those_of_all_logits_at_once(dtype, tolerance, chunk_size):
    hidden, weight, labels = problem()
    x, w = tensor(hidden, dtype), tensor(weight, dtype)
    loss = linear_cross_entropy(x, w, paddle.to_tensor(labels), chunk_size=chunk_size)
    (loss * 3.0).backward()
    expected, hidden_grad, weight_grad = oracle(hidden, weight, labels)
    assert loss.shape == [] and str(loss.dtype) == f"paddle.{dtype}"
    assert float(loss) == pytest.approx(expected, rel=tolerance)
    np.testing.assert_allclose(x.grad.numpy(), 3 * hidden_grad, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(w.grad.numpy(), 3 * weight_grad, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("trained", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient_and_changes_none(trained):
    hidden, weight, labels = problem()
    x, w = tensor(hidden, "float64", trained == "hidden"), tensor(weight, "float64", trained == "weight")
    linear_cross_entropy(x, w, paddle.to_tensor(labels), chunk_size=4).backward()
    _, hidden_grad, weight_grad = oracle(hidden, weight, labels)
    wanted, other, expected = (x, w, hidden_grad) if trained == "hidden" else (w, x, weight_grad)
    assert other.grad is None
    np.testing.assert_allclose(wanted.grad.numpy(), expected, rtol=0, atol=1e-11)


def test_gradients_reach_what_the_hidden_states_were_computed_from():
    hidden, weight, labels = problem()
    leaf = tensor(hidden, "float64")
    linear_cross_entropy(leaf * 2.0, tensor(weight, "float64", False), paddle.to_tensor(labels)).backward()
    _, hidden_grad, _ = oracle(2 * hidden, weight, labels)
    np.testing.assert_allclose(leaf.grad.numpy(), 2 * hidden_grad, rtol=0, atol=1e-11)


def test_without_a_label_the_loss_is_zero_and_the_gradients_are_zeros():
    hidden, weight, _ = problem()
    x, w = tensor(hidden, "float32"), tensor(weight, "float32")
    loss = linear_cross_entropy(x, w, paddle.full([len(hidden)], IGNORED, "int64"))
    loss.backward()
    assert float(loss) == 0
    assert x.grad.shape == list(hidden.shape) and not x.grad.numpy().any()
    assert w.grad.shape == list(weight.shape) and not w.grad.numpy().any()


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, labels = problem()
    x, w = tensor(hidden, "float64"), tensor(weight, "float64")
    with paddle.no_grad():
        loss = linear_cross_entropy(x, w, paddle.to_tensor(labels), chunk_size=8)
    assert loss.stop_gradient
    assert float(loss) == pytest.approx(oracle(hidden, weight, labels)[0], rel=1e-12)


def test_a_target_without_any_probability_has_its_full_loss():
    """Paddle's own cross entropy on a CPU ends at 64."""
    weight = np.array([[300.0, 0.0, -100.0]])
    x = tensor(np.ones((1, 1)), "float32")
    loss = linear_cross_entropy(x, tensor(weight, "float32", False), paddle.to_tensor([2]))
    loss.backward()
    assert float(loss) == pytest.approx(400)
    assert float(x.grad) == pytest.approx(400)


def test_nan_in_the_hidden_states_is_nan_in_the_loss():
    hidden, weight, labels = problem(labeled=1.0)
    hidden[3, 4] = np.nan
    loss = linear_cross_entropy(tensor(hidden, "float32"), tensor(weight, "float32"), paddle.to_tensor(labels))
    assert np.isnan(float(loss))


def test_no_more_logits_than_a_chunk_has_are_computed_at_once(monkeypatch):
    sizes = []
    monkeypatch.setattr(module.paddle, "matmul", _recording(paddle.matmul, sizes))
    hidden, weight, labels = problem(positions=200, labeled=0.5)
    loss = linear_cross_entropy(
        tensor(hidden, "float32"), tensor(weight, "float32"), paddle.to_tensor(labels), chunk_size=16
    )
    loss.backward()
    assert max(sizes) == 16 * VOCABULARY
    # Only labeled positions are multiplied.
    rows = sum(size // VOCABULARY for size in sizes if size % VOCABULARY == 0)
    assert rows == (labels != IGNORED).sum()


def _recording(function, sizes):
    def matmul(x, y, **options):
        out = function(x, y, **options)
        sizes.append(out.size)
        return out

    return matmul


def test_the_default_chunk_has_at_least_one_position():
    assert module.default_chunk_size(10 * module.LOGITS_PER_CHUNK) == 1
    assert module.default_chunk_size(151936) * 151936 <= module.LOGITS_PER_CHUNK


def test_under_auto_cast_products_are_in_its_dtype_and_the_softmax_is_not(monkeypatch):
    """On a CPU ``auto_cast`` has no effect and 16-bit products do not exist, so both are made up."""
    seen, plain = [], paddle.matmul

    def product(x, y, **options):
        seen.append((x.dtype, y.dtype))
        return plain(x.astype("float32"), y.astype("float32"), **options).astype(x.dtype)

    monkeypatch.setattr(module.paddle, "matmul", product)
    monkeypatch.setattr(module.paddle.amp, "is_autocast_enabled", lambda: True)
    monkeypatch.setattr(module.paddle.amp, "get_autocast_dtype", lambda: "bfloat16")
    hidden, weight, labels = problem(labeled=1.0)
    x = tensor(hidden, "float32")
    loss = linear_cross_entropy(x, tensor(weight, "float32", False), paddle.to_tensor(labels), chunk_size=8)
    loss.backward()
    assert set(seen) == {(paddle.bfloat16, paddle.bfloat16)}
    expected, hidden_grad, _ = oracle(hidden, weight, labels)
    assert loss.dtype == paddle.float32 and x.grad.dtype == paddle.float32
    assert float(loss) == pytest.approx(expected, rel=0.01)
    np.testing.assert_allclose(x.grad.numpy(), hidden_grad, rtol=0, atol=0.05)


@pytest.mark.parametrize("label", [VOCABULARY, -1])
def test_a_label_outside_of_the_vocabulary_is_refused(label):
    hidden, weight, labels = problem()
    labels[0] = label
    with pytest.raises(OperatorError, match=f"expected 0 to {VOCABULARY - 1}, or -100"):
        linear_cross_entropy(tensor(hidden, "float32"), tensor(weight, "float32"), paddle.to_tensor(labels))


def test_shapes_that_do_not_fit_are_refused():
    x, w = paddle.ones([3, 4]), paddle.ones([5, 6])
    with pytest.raises(OperatorError, match=r"expected \[positions, width\] and \[width, vocabulary\]"):
        linear_cross_entropy(x, w, paddle.zeros([3], "int64"))
    with pytest.raises(OperatorError, match=r"expected \[3\]"):
        linear_cross_entropy(x, paddle.ones([4, 6]), paddle.zeros([2], "int64"))


class WithAdapter(nn.Layer):
    """A frozen product and a trained one of low rank."""

    def __init__(self, weight):
        super().__init__()
        self.base = tensor(weight, "float32", trained=False)
        self.low = self.create_parameter([WIDTH, 3])
        self.high = self.create_parameter([3, VOCABULARY])

    def forward(self, x):
        return x @ self.base + x @ self.low @ self.high


def reference_grads(head, hidden, labels):
    x = tensor(hidden, "float32")
    loss = nn.functional.cross_entropy(head(x), paddle.to_tensor(labels), reduction="sum")
    loss.backward()
    grads = [p.grad.numpy() for p in head.parameters()]
    head.clear_gradients()
    return float(loss), x.grad.numpy(), grads


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("kind", ["adapter", "bias", "hooked", "wrapped"])
def test_a_head_that_is_more_than_a_weight_is_called_chunk_by_chunk(kind, chunk_size):
    hidden, weight, labels = problem()
    if kind == "adapter":
        head = WithAdapter(weight)
    else:
        head = nn.Linear(WIDTH, VOCABULARY, bias_attr=None if kind == "bias" else False)
    calls = []
    if kind == "hooked":
        head.register_forward_pre_hook(lambda layer, inputs: calls.append(inputs[0].shape[0]))
    if kind == "wrapped":
        forward = head.forward
        head.forward = lambda x: (calls.append(x.shape[0]), forward(x))[1]
    expected, hidden_grad, grads = reference_grads(head, hidden, labels)
    calls.clear()
    x = tensor(hidden, "float32")
    loss = head_cross_entropy(x, head, VOCABULARY, paddle.to_tensor(labels), chunk_size=chunk_size)
    loss.backward()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), hidden_grad, rtol=0, atol=1e-4)
    assert any(grad.any() for grad in grads)
    for parameter, grad in zip(head.parameters(), grads):
        np.testing.assert_allclose(parameter.grad.numpy(), grad, rtol=0, atol=1e-4)
    if kind in ("hooked", "wrapped"):
        assert calls and max(calls) <= (chunk_size or len(labels))


def test_a_head_with_an_adapter_and_no_label_gets_zero_gradients():
    hidden, weight, _ = problem()
    head, x = WithAdapter(weight), tensor(hidden, "float32")
    loss = head_cross_entropy(x, head, VOCABULARY, paddle.full([len(hidden)], IGNORED, "int64"))
    loss.backward()
    assert float(loss) == 0 and not x.grad.numpy().any()
    assert all(p.grad is not None and not p.grad.numpy().any() for p in head.parameters())


@pytest.mark.usefixtures("any_backend")
def test_a_quantized_head_passes_gradients_through():
    hidden, weight, labels = problem(positions=50)
    head = QuantizedLinear(WIDTH, VOCABULARY, INT8)
    head.fill(*quantize_w8(tensor(weight, "float32")), None)
    expected, hidden_grad, _ = reference_grads(head, hidden, labels)
    x = tensor(hidden, "float32")
    loss = head_cross_entropy(x, head, VOCABULARY, paddle.to_tensor(labels), chunk_size=16)
    loss.backward()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), hidden_grad, rtol=0, atol=1e-4)


@pytest.mark.parametrize("passes", [2, 3])
def test_further_backward_passes_over_a_retained_graph_give_the_same_gradients(passes):
    generator = np.random.default_rng(0)
    hidden, weight = (
        paddle.to_tensor(generator.normal(size=shape).astype("float32"), stop_gradient=False)
        for shape in ([7, 8], [8, 11])
    )
    labels = paddle.to_tensor([3, 0, -100, 10, 5, 5, 1])
    loss = linear_cross_entropy(hidden, weight, labels, chunk_size=4)
    # `Tensor.backward` cannot go twice through any PyLayer: Paddle 3.3 itself ends the process.
    gradients = [
        [gradient.numpy() for gradient in paddle.grad(3 * loss, [hidden, weight], retain_graph=True)]
        for _ in range(passes)
    ]
    assert all(np.abs(gradient).max() > 0 for gradient in gradients[0])
    for others in gradients[1:]:
        for first, other in zip(gradients[0], others):
            np.testing.assert_array_equal(first, other)
