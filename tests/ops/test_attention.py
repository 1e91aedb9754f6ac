import numpy as np
import paddle

from paddlemix import ops


def reference(query, key, value, mask=0.0):
    scores = np.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(query.shape[-1]) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdims=True), value)


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_is_a_weighted_mean_of_the_values():
    query, key, value = random(2, 3, 4, 8), random(2, 3, 6, 8), random(2, 3, 6, 9)[..., :8]
    actual = ops.attention(*map(paddle.to_tensor, (query, key, value)))
    expected = reference(*(a.astype(np.float64) for a in (query, key, value)))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=2e-6)


def test_masked_keys_have_no_weight():
    query, key, value = random(1, 2, 3, 8), random(1, 2, 5, 8), random(1, 2, 5, 7)[..., :7]
    mask = np.zeros((1, 1, 3, 5), np.float32)
    mask[..., 3:] = np.finfo(np.float32).min
    masked = ops.attention(*map(paddle.to_tensor, (query, key, value, mask)))
    alone = ops.attention(*map(paddle.to_tensor, (query, key[:, :, :3], value[:, :, :3])))
    np.testing.assert_allclose(masked.numpy(), alone.numpy(), rtol=0, atol=1e-6)


def test_a_row_that_sees_nothing_stays_finite():
    mask = paddle.full([1, 1, 1, 4], float(np.finfo(np.float32).min))
    out = ops.attention(paddle.ones([1, 1, 1, 8]), paddle.ones([1, 1, 4, 8]), paddle.ones([1, 1, 4, 8]), mask)
    assert np.isfinite(out.numpy()).all()


def test_large_scores_do_not_overflow():
    big = paddle.full([1, 1, 2, 64], 1e3)
    np.testing.assert_allclose(ops.attention(big, big, paddle.ones([1, 1, 2, 64])).numpy(), 1.0)
