import numpy as np
import paddle

from paddlemix import ops


def rotate_by_complex_numbers(x, positions, base):
    """The definition: dimensions ``i`` and ``i + d/2`` are one complex number, turned by an angle of its own."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * base ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def apply(x, positions, base):
    cos, sin = ops.rotary_tables(int(positions.max()) + 1, x.shape[-1], base)
    tables = (paddle.to_tensor(table[positions][None, None]) for table in (cos, sin))
    return ops.apply_rotary(paddle.to_tensor(x), *tables).numpy()


def test_turns_halves_together():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 16)).astype(np.float32)
    positions = np.array([0, 1, 7, 100, 1000])
    expected = rotate_by_complex_numbers(x.astype(np.float64), positions, 10000.0)
    np.testing.assert_allclose(apply(x, positions, 10000.0), expected, rtol=0, atol=2e-4)


def test_position_zero_changes_nothing():
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 8)).astype(np.float32)
    np.testing.assert_array_equal(apply(x, np.array([0]), 10000.0), x)


def test_scores_depend_on_the_distance_alone():
    query, key = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 32)).astype(np.float32)

    def score(i, j):
        return float((apply(query, np.array([i]), 10000.0) * apply(key, np.array([j]), 10000.0)).sum())

    assert abs(score(3, 1) - score(503, 501)) < 1e-3
    assert abs(score(3, 1) - score(3, 2)) > 1e-2
