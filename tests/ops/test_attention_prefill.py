from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops.attention_decode import attention_decode
from paddlemix.ops.attention_prefill import (
    attention_by_paddle,
    attention_interleaved,
    attention_prefill,
    attention_reference,
)
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact

BOTH = pytest.mark.parametrize("attend", [attention_prefill, attention_decode])


def exact(query, key, value, kv_lengths, query_starts=None, kv_starts=None, block_table=None, mask=None):
    """Attention in float64, one row and one query at a time; all arguments are arrays."""
    batch, heads, length, head_dim = query.shape
    out = np.zeros([batch, length, heads, head_dim])
    for row in range(batch):
        keys, values = key[row : row + 1], value[row : row + 1]
        if block_table is not None:
            keys, values = key[block_table[row]], value[block_table[row]]
        keys, values = (np.concatenate(list(x), axis=1).astype(np.float64) for x in (keys, values))
        for t in range(length):
            begin = 0 if kv_starts is None else kv_starts[row]
            end = kv_lengths[row] if query_starts is None else min(kv_lengths[row], query_starts[row] + t + 1)
            if begin >= end:
                continue
            scores = np.einsum("hd,hsd->hs", query[row, :, t].astype(np.float64), keys[:, begin:end]) / head_dim**0.5
            if mask is not None:
                scores = scores + mask[row % len(mask), t, begin:end]
            if np.isneginf(scores).all():
                continue
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[row, t] = np.einsum("hs,hsd->hd", weights, values[:, begin:end])
    return out.reshape([batch, length, heads * head_dim])


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def make(length, slots, head_dim, batch=2, heads=2):
    return draw(batch, heads, length, head_dim, seed=1) * 2, *(
        draw(batch, heads, slots, head_dim, seed=s) for s in (2, 3)
    )


def run(attend, query, key, value, **rest):
    as_tensor = lambda x: x if x is None or isinstance(x, paddle.Tensor) else paddle.to_tensor(x)  # noqa: E731
    return attend(*map(as_tensor, (query, key, value)), **{name: as_tensor(x) for name, x in rest.items()})


def int32(*values):
    return np.array(values, np.int32)


def scenarios(length, slots):
    """Keyword arguments of the two-row calls that every implementation must get right."""
    generator = np.random.default_rng(5)
    mask = generator.normal(size=[2, length, slots]).astype(np.float32)
    mask[generator.random(mask.shape) < 0.3] = -np.inf
    mask[1, 0] = -np.inf
    lengths = int32(slots, slots - 3)
    return {
        "everything": {"kv_lengths": int32(slots, slots)},
        "lengths": {"kv_lengths": lengths},
        "causal": {"kv_lengths": lengths, "query_starts": lengths - length},
        "padded on the left": {"kv_lengths": lengths, "query_starts": lengths - length, "kv_starts": int32(0, 11)},
        "mask": {"kv_lengths": lengths, "mask": mask},
        "one mask, causal": {"kv_lengths": lengths, "query_starts": int32(slots - length, 0), "mask": mask[:1]},
    }


@BOTH
@pytest.mark.parametrize("name", scenarios(1, 20))
@pytest.mark.parametrize("length", [1, 5, 70])
def test_matches_a_plain_loop(any_backend, attend, name, length):
    query, key, value = make(length, 93, 16)
    rest = scenarios(length, 93)[name]
    actual = run(attend, query, key, value, **rest)
    np.testing.assert_allclose(actual.numpy(), exact(query, key, value, **rest), rtol=0, atol=5e-6)


@pytest.mark.parametrize("head_dim", [1, 7, 104, 128])
@pytest.mark.parametrize("length", [1, 9, 123, 288])
@pytest.mark.parametrize("name", ["everything", "padded on the left", "mask"])
def test_prefill_is_as_exact_as_paddle(fused, head_dim, length, name):
    query, key, value = make(length, length + 100, head_dim)
    rest = scenarios(length, length + 100)[name]
    with ops.using("reference"):
        reference = run(attention_prefill, query, key, value, **rest)
    expected = exact(query, key, value, **rest)
    for _ in each_instruction_set():
        assert_as_exact(run(attention_prefill, query, key, value, **rest), reference, expected)


def test_an_image_worth_of_patches_is_as_exact_as_paddle(fused):
    query, key, value = make(1024, 1024, 104, batch=1, heads=1)
    with ops.using("reference"):
        reference = run(attention_prefill, query, key, value, kv_lengths=int32(1024))
    expected = exact(query, key, value, int32(1024))
    for _ in each_instruction_set():
        fast = run(attention_prefill, query, key, value, kv_lengths=int32(1024))
        assert_as_exact(fast, reference, expected)


@BOTH
@pytest.mark.parametrize("length", [1, 6, 70])
def test_a_cache_in_blocks_is_read_through_its_table(any_backend, attend, length):
    query = draw(2, 3, length, 24)
    key, value = draw(23, 3, 8, 24, seed=1), draw(23, 3, 8, 24, seed=2)
    table = np.random.default_rng(3).permutation(23)[:22].reshape(2, 11).astype(np.int32)
    rest = {"kv_lengths": int32(85, 71), "query_starts": int32(85 - length, 71 - length), "block_table": table}
    actual = run(attend, query, key, value, **rest)
    np.testing.assert_allclose(actual.numpy(), exact(query, key, value, **rest), rtol=0, atol=5e-6)


@BOTH
@pytest.mark.parametrize("head_dim", [20, 128])
def test_a_bfloat16_cache_counts_as_its_rounded_values(any_backend, attend, head_dim):
    query, *cache = make(4, 300, head_dim)
    key, value = (paddle.to_tensor(x).astype("bfloat16") for x in cache)
    rest = {"kv_lengths": int32(300, 41), "query_starts": int32(296, 37)}
    actual = run(attend, query, key, value, **rest)
    rounded = [x.astype("float32").numpy() for x in (key, value)]
    np.testing.assert_allclose(actual.numpy(), exact(query, *rounded, **rest), rtol=0, atol=5e-6)


@BOTH
def test_a_query_that_sees_nothing_gives_zeros(any_backend, attend):
    query, key, value = make(3, 10, 8)
    rest = {"kv_lengths": int32(10, 0), "query_starts": int32(3, 5), "kv_starts": int32(4, 0)}
    actual = run(attend, query, key, value, **rest).numpy()
    assert not actual[0, 0].any() and not actual[1].any()
    assert actual[0, 1:].all()


@BOTH
def test_what_lies_outside_of_a_row_is_not_read(any_backend, attend):
    query, key, value = make(4, 90, 16)
    rest = {"kv_lengths": int32(80, 33), "query_starts": int32(76, 29), "kv_starts": int32(7, 0)}
    expected = exact(query, key, value, **rest)
    for cache in (key, value):
        cache[0, :, :7] = cache[0, :, 80:] = cache[1, :, 33:] = np.nan
    np.testing.assert_allclose(run(attend, query, key, value, **rest).numpy(), expected, rtol=0, atol=5e-6)


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_what_is_not_finite_reaches_its_row_and_head_only(fused, attend, where, value):
    # The kernels only: Paddle's softmax on the CPU makes equal weights of a long row of NaN.
    arrays = dict(zip(("query", "key", "value"), make(3, 40, 16)))
    arrays[where][1, 0, 2, 5] = value
    actual = run(attend, *arrays.values(), kv_lengths=int32(40, 40)).numpy().reshape([2, 3, 2, 16])
    finite = np.isfinite(actual)
    assert finite[0].all() and finite[:, :, 1].all()
    assert not finite[1, 2, 0, 5]


@BOTH
def test_minus_infinity_in_a_key_hides_its_slot(any_backend, attend):
    query, key, value = map(np.abs, make(3, 90, 16))
    key[:, :, 7, 3] = -np.inf
    actual = run(attend, query, key, value, kv_lengths=int32(90, 90))
    expected = exact(query, np.delete(key, 7, axis=2), np.delete(value, 7, axis=2), int32(89, 89))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=5e-6)


@BOTH
def test_scores_far_apart_neither_overflow_nor_vanish(any_backend, attend):
    query, key, value = make(3, 600, 8)
    query *= 1e4
    actual = run(attend, query, key, value, kv_lengths=int32(600, 600)).numpy()
    np.testing.assert_allclose(actual, exact(query, key, value, int32(600, 600)), rtol=0, atol=2e-2)


@BOTH
@pytest.mark.parametrize("shape", [(0, 2, 4, 8), (2, 0, 4, 8), (2, 2, 0, 8), (2, 2, 4, 8)])
def test_empty_axes_are_allowed(any_backend, attend, shape):
    batch, heads, length, head_dim = shape
    cache = np.zeros([batch, heads, 0 if shape == (2, 2, 4, 8) else 5, head_dim], np.float32)
    actual = run(attend, np.ones(shape, np.float32), cache, cache, kv_lengths=np.zeros([batch], np.int32))
    assert actual.shape == [batch, length, heads * head_dim]
    assert not actual.numpy().any()


def test_views_give_what_their_copies_give(any_backend):
    packed = paddle.to_tensor(draw(2, 9, 3, 3, 16))
    views = [packed[:, :, i].transpose([0, 2, 1, 3]) for i in range(3)]
    lengths = paddle.to_tensor(int32(9, 9))
    expected = attention_prefill(*(view.contiguous() for view in views), kv_lengths=lengths)
    np.testing.assert_array_equal(attention_prefill(*views, kv_lengths=lengths).numpy(), expected.numpy())


def test_the_number_of_threads_changes_no_bit(fused, tmp_path):
    """In another process each, because Paddle fixes the number when it starts."""
    import os
    import subprocess
    import sys

    script = (
        "import sys, numpy as np, paddle\n"
        "from paddlemix.ops.attention_prefill import attention_prefill, attention_interleaved\n"
        "from paddlemix.ops.attention_decode import attention_decode\n"
        "paddle.seed(3)\n"
        "draw = lambda *shape: paddle.randn(shape)\n"
        "lengths = paddle.to_tensor([700, 431], dtype='int32')\n"
        "many, few, cache = draw(2, 5, 200, 64), draw(2, 5, 3, 64), (draw(2, 5, 700, 64), draw(2, 5, 700, 64))\n"
        "results = [attention_prefill(many, *cache, kv_lengths=lengths, query_starts=lengths - 200),\n"
        "           attention_decode(few, *cache, kv_lengths=lengths, query_starts=lengths - 3),\n"
        "           attention_interleaved(draw(1, 300, 960), 5)]\n"
        "np.savez(sys.argv[1], *[x.numpy() for x in results])\n"
    )
    results = []
    for threads in ("1", "2", "3"):
        path = tmp_path / f"{threads}.npz"
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PADDLEMIX_OPS": "cpu"}
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, env=environment)
        with np.load(path) as saved:
            results.append([saved[name] for name in saved.files])
    for other in results[1:]:
        for first, second in zip(results[0], other):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", scenarios(1, 20))
def test_paddles_own_attention_is_called_rightly(name):
    query, key, value = make(33, 60, 16)
    rest = {"query_starts": None, "kv_starts": None, "block_table": None, "mask": None, **scenarios(33, 60)[name]}
    actual = run(attention_by_paddle, query, key, value, **rest)
    np.testing.assert_allclose(actual.numpy(), exact(query, key, value, **rest), rtol=0, atol=5e-6)


@pytest.mark.parametrize("heads, head_dim", [(2, 104), (3, 8)])
@pytest.mark.parametrize("length", [1, 100])
def test_interleaved_is_attention_over_the_unpacked_parts(any_backend, heads, head_dim, length):
    packed = draw(2, length, heads, 3, head_dim)
    actual = attention_interleaved(paddle.to_tensor(packed.reshape([2, length, -1])), heads)
    parts = [packed[:, :, :, i].transpose([0, 2, 1, 3]) for i in range(3)]
    np.testing.assert_allclose(actual.numpy(), exact(*parts, int32(length, length)), rtol=0, atol=5e-6)


def test_interleaved_of_nothing_is_nothing(any_backend):
    assert attention_interleaved(paddle.zeros([0, 5, 48]), 2).shape == [0, 5, 16]


@pytest.mark.parametrize("shape, heads", [([2, 5, 50], 2), ([5, 48], 2), ([1, 5, 48], 0)])
def test_interleaved_refuses_other_shapes(any_backend, shape, heads):
    with pytest.raises(OperatorError, match="attention_interleaved: qkv has shape"):
        attention_interleaved(paddle.zeros(shape), heads)


def call_with(**changed):
    arguments = {
        "query": paddle.zeros([2, 3, 4, 8]),
        "key": paddle.zeros([2, 3, 10, 8]),
        "value": paddle.zeros([2, 3, 10, 8]),
        "kv_lengths": paddle.to_tensor(int32(10, 10)),
    }
    return {**arguments, **changed}


@BOTH
@pytest.mark.parametrize(
    "changed, message",
    [
        ({"query": [2, 3, 8]}, "query has shape"),
        ({"key": [2, 3, 10, 16]}, "key has shape"),
        ({"key": [1, 3, 10, 8]}, "key has 1 rows"),
        ({"value": [2, 3, 9, 8]}, "value has shape"),
        ({"kv_lengths": int32(10)}, "kv_lengths has shape"),
        ({"kv_lengths": np.array([10, 10])}, "kv_lengths must be int32"),
        ({"kv_lengths": int32(10, 11)}, r"kv_lengths\[1\] is 11, expected 0 to 10"),
        ({"kv_lengths": int32(-1, 10)}, r"kv_lengths\[0\] is -1"),
        ({"query_starts": int32(1, 2, 3)}, "query_starts has shape"),
        ({"kv_starts": np.zeros(2, np.float32)}, "kv_starts must be int32"),
        ({"mask": [2, 4]}, "mask has shape"),
        ({"mask": [3, 4, 10]}, "mask has shape"),
        ({"mask": [1, 4, 9]}, r"kv_lengths\[0\] is 10, but mask covers 9 slots"),
        ({"block_table": int32(0, 1)}, "block_table has shape"),
        ({"block_table": np.array([[0], [2]], np.int32)}, r"block_table\[1, 0\] is 2, expected 0 to 1"),
        ({"block_table": np.array([[-1], [0]], np.int32)}, r"block_table\[0, 0\] is -1"),
    ],
)
def test_what_does_not_fit_is_refused(fused, attend, changed, message):
    changed = {name: paddle.zeros(x) if isinstance(x, list) else paddle.to_tensor(x) for name, x in changed.items()}
    with pytest.raises(OperatorError, match=f"{attend.__name__}: {message}"):
        attend(**call_with(**changed))


@BOTH
def test_other_dtypes_are_refused(fused, attend):
    with pytest.raises(OperatorError, match="value has another dtype"):
        attend(**call_with(key=paddle.zeros([2, 3, 10, 8], dtype="bfloat16")))
    with pytest.raises(OperatorError, match="no cpu kernel for float64"):
        attend(**call_with(query=paddle.zeros([2, 3, 4, 8], dtype="float64")))


@BOTH
def test_entries_of_a_table_beyond_the_length_may_be_anything(fused, attend):
    table = paddle.to_tensor(np.array([[1, 999], [0, -5]], np.int32))
    attend(**call_with(block_table=table))


def test_gradients_of_the_packed_projection_are_those_of_plain_attention(any_backend):
    qkv = np.random.default_rng(0).normal(size=(2, 5, 3 * 16)).astype(np.float32)
    gradients = []
    for mode in (any_backend, "reference"):
        tensor = paddle.to_tensor(qkv, stop_gradient=False)
        with ops.using(mode):
            (ops.attention_interleaved(tensor, 2) ** 2).sum().backward()
        gradients.append(tensor.grad.numpy())
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


@BOTH
def test_a_gradient_that_is_wanted_is_that_of_plain_paddle(any_backend, attend):
    query, key, value = (paddle.to_tensor(array, stop_gradient=False) for array in make(3, 5, 8))
    lengths = paddle.to_tensor(int32(5, 4))
    out = attend(query, key, value, kv_lengths=lengths)
    out.square().sum().backward()
    actual = [tensor.grad.numpy() for tensor in (query, key, value)]
    for tensor in (query, key, value):
        tensor.clear_grad()
    attention_reference(query, key, value, kv_lengths=lengths).square().sum().backward()
    for tensor, gradient in zip((query, key, value), actual):
        np.testing.assert_array_equal(gradient, tensor.grad.numpy())
