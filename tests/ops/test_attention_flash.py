"""Attention of a GPU without our kernels, with a stand-in for Paddle's flash attention, which no CPU has."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.ops import AttentionPass, attention_flash, backend
from paddlemix.ops.attention_decode import attention_decode
from paddlemix.ops.attention_prefill import attention_interleaved, attention_prefill
from tests.ops.test_attention_prefill import draw, exact, int32


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """As if tensors were on a GPU without the library; number of queries and keys and ``causal`` of each call."""
    calls: list[tuple[int, int, bool]] = []

    def flash(query, key, value, *, causal, return_softmax_lse, training):
        assert return_softmax_lse and not training
        q, k, v = (x.numpy() for x in (query, key, value))
        calls.append((q.shape[1], k.shape[1], causal))
        scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[3])
        if causal:  # the first query and the first key belong together
            scores[..., ~np.tri(*scores.shape[2:], dtype=bool)] = -np.inf
        lse = np.log(np.exp(scores).sum(-1))
        padded = np.full([*lse.shape[:2], -(-q.shape[1] // 128) * 128], np.nan, np.float32)
        padded[..., : q.shape[1]] = lse
        out = np.einsum("bhts,bshd->bthd", np.exp(scores - lse[..., None]), v)
        return paddle.to_tensor(out), paddle.to_tensor(padded)

    monkeypatch.setattr(attention_flash.F, "flashmask_attention", flash)
    monkeypatch.setattr(attention_flash, "has_flash_attention", lambda: True)
    monkeypatch.setattr(attention_flash, "DTYPES", (paddle.float32,))  # of 16 bits a CPU computes little
    monkeypatch.setattr(backend, "use_kernel", lambda operator, x: False)
    monkeypatch.setattr(backend, "uses_paddle_kernels", lambda x: True)
    return calls


def attend(function, query, key, value, *, shared=None, **rest):
    tensors = {name: paddle.to_tensor(x) for name, x in rest.items()}
    return function(*map(paddle.to_tensor, (query, key, value)), **tensors, shared=shared).numpy()


@pytest.mark.parametrize("past", [0, 1, 70])
@pytest.mark.parametrize("paged", [False, True])
def test_a_chunk_is_attended_without_a_mask(gpu, past, paged):
    length, capacity = 13, 96
    query, (key, value) = draw(1, 2, length, 16, seed=1), (draw(1, 2, capacity, 16, seed=s) for s in (2, 3))
    key[:, :, past + length :] = value[:, :, past + length :] = np.nan  # never written
    rest = {"kv_lengths": int32(past + length), "query_starts": int32(past)}
    expected = exact(query, key, value, **rest)
    if paged:
        rest["block_table"] = np.array([[2, 0, 1]], np.int32)
        key, value = (x.reshape([2, 3, 32, 16]).transpose([1, 0, 2, 3])[[1, 2, 0]] for x in (key, value))
    for function in (attention_prefill, attention_decode):
        actual = attend(function, query, key, value, **rest, shared=AttentionPass(past + length, past))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)
    parts = [(length, past, False), (length, length, True)] if past else [(length, length, True)]
    assert gpu == parts * 2


def test_rows_that_are_shorter_do_not_see_what_was_never_written(gpu):
    past, length = 5, 9
    query, (key, value) = draw(2, 2, length, 8, seed=1), (draw(2, 2, past + length, 8, seed=s) for s in (2, 3))
    key[1, :, past + 4 :] = value[1, :, past + 4 :] = np.nan
    rest = {"kv_lengths": int32(past + length, past + 4), "query_starts": int32(past, past)}
    expected = exact(query, key, value, **rest)
    actual = attend(attention_prefill, query, key, value, **rest, shared=AttentionPass(past + length, past))
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(actual[1, :4], expected[1, :4], rtol=0, atol=5e-6)
    assert np.isfinite(actual).all()


def test_one_query_takes_one_call(gpu):
    query, (key, value) = draw(1, 2, 1, 8, seed=1), (draw(1, 2, 30, 8, seed=s) for s in (2, 3))
    rest = {"kv_lengths": int32(30), "query_starts": int32(29)}
    actual = attend(attention_decode, query, key, value, **rest, shared=AttentionPass(30, 29))
    np.testing.assert_allclose(actual, exact(query, key, value, **rest), rtol=0, atol=5e-6)
    assert gpu == [(1, 30, False)]


@pytest.mark.parametrize(
    ("shared", "rest"),
    [
        (None, {"query_starts": int32(4)}),
        (AttentionPass(11), {"query_starts": int32(4)}),
        (AttentionPass(11, 4), {"query_starts": int32(4), "kv_starts": int32(2)}),
        (AttentionPass(11, 4), {"query_starts": int32(4), "mask": np.zeros([1, 7, 11], np.float32)}),
    ],
    ids=["lengths unknown", "rows of different lengths", "padding", "mask"],
)
def test_other_passes_take_a_mask(gpu, shared, rest):
    query, (key, value) = draw(1, 2, 7, 8, seed=1), (draw(1, 2, 11, 8, seed=s) for s in (2, 3))
    rest = {"kv_lengths": int32(11), **rest}
    actual = attend(attention_prefill, query, key, value, **rest, shared=shared)
    np.testing.assert_allclose(actual, exact(query, key, value, **rest), rtol=0, atol=5e-6)
    assert gpu == []


def test_training_and_images_take_paddles_attention_too(gpu, monkeypatch):
    seen = []
    own = paddle.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        paddle.nn.functional, "scaled_dot_product_attention", lambda *a, **k: seen.append(k) or own(*a, **k)
    )
    query, key, value = (paddle.to_tensor(draw(2, 3, 5, 8, seed=s)) for s in (1, 2, 3))
    query.stop_gradient = False
    mask = paddle.to_tensor(np.where(np.tri(5, dtype=bool), 0, np.finfo(np.float32).min).astype(np.float32))
    actual = ops.attention(query, key, value, mask)
    actual.sum().backward()
    packed = attention_interleaved(paddle.to_tensor(draw(1, 4, 48)), 2)
    gradient = query.grad.numpy()
    monkeypatch.setattr(backend, "uses_paddle_kernels", lambda x: False)
    assert len(seen) == 2
    query.clear_gradient()
    expected = ops.attention(query, key, value, mask)
    expected.sum().backward()
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(gradient, query.grad.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        packed.numpy(), attention_interleaved(paddle.to_tensor(draw(1, 4, 48)), 2).numpy(), atol=2e-6
    )
