"""The rotation of a packed projection into the cache, and its gradient, on the emulated device."""

import ctypes

import numpy as np
import pytest

from tests.ops.cuda.emulation import KeyValues, Strides, assert_accurate

TABLES, TABLE_LENGTH = 2, 40


def make_tables(random, head_dim):
    """cos, and sin with its first half negated, for two bases."""
    inverse = 1 / np.array([[10000.0], [35000.0]]) ** (np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(TABLE_LENGTH)[None, :, None] * inverse[:, None, :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos], -1).astype(np.float32), np.concatenate([-sin, sin], -1).astype(np.float32)


def rotate(x, cos, sin):
    return x * cos + np.roll(x, x.shape[-1] // 2, -1) * sin


def rotate_back(grad, cos, sin):
    return grad * cos + np.roll(grad * sin, grad.shape[-1] // 2, -1)


def split_heads(packed, heads):
    """[batch, length, 3 * width] to three of [batch, heads, length, head_dim]."""
    batch, length, width = packed.shape
    return packed.reshape(batch, length, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4)


# batch, length, heads, head_dim, offset: packed, scalar by the head's half, scalar by alignment, one token.
@pytest.mark.parametrize(
    ("batch", "length", "heads", "head_dim", "offset"),
    [(2, 5, 3, 32, 0), (2, 3, 2, 104, 0), (1, 4, 2, 32, 1), (3, 1, 2, 128, 0), (2, 2, 1, 6, 0), (0, 1, 2, 8, 0)],
)
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("everything", [False, True], ids=["plain", "bias, tables, logn, slots, lengths"])
def test_rotation_and_cache_match_float64(
    emulated, arrays, random, dtype, batch, length, heads, head_dim, offset, paged, everything
):
    width = heads * head_dim
    packed = dtype.round(random.normal(size=(batch, length, 3 * width)))
    bias = dtype.round(random.normal(size=3 * width)) if everything else np.zeros(3 * width)
    cos, sin = make_tables(random, head_dim)
    positions = random.integers(0, TABLE_LENGTH, size=(batch, length), dtype=np.int32)
    tables = random.integers(0, TABLES, size=batch, dtype=np.int32) if everything else np.zeros(batch, np.int32)
    logn = random.uniform(1, 2, size=TABLE_LENGTH).astype(np.float32) if everything else np.ones(TABLE_LENGTH)
    slots = random.integers(0, 7, size=batch, dtype=np.int32) if everything else np.zeros(batch, np.int32)
    lengths = random.integers(0, length + 1, size=batch, dtype=np.int32) if everything else np.full(batch, length)

    cache = KeyValues.empty(arrays, dtype, batch, heads, 12, head_dim, 4 if paged else None, random, offset)
    query = arrays.empty((batch, length, heads, head_dim), dtype.storage)
    optional = [arrays.place(a) if everything else None for a in (tables, logn.astype(np.float32), slots, lengths)]
    emulated("rotary_qkv").launch(
        "rotary_qkv", dtype.code, arrays.place(dtype.encode(packed)),
        arrays.place(dtype.encode(bias)) if everything else None, arrays.place(cos), arrays.place(sin), TABLE_LENGTH,
        optional[0], arrays.place(positions), optional[1], query,
        Strides(length * width, head_dim, width), ctypes.byref(cache.description), optional[2], optional[3],
        batch, length, heads, head_dim,
    )  # fmt: skip

    q, k, v = split_heads(packed + bias, heads)
    factors = [table.astype(np.float64)[tables[:, None], positions][:, None] for table in (cos, sin)]
    q = rotate(q, *factors) * logn.astype(np.float64)[positions][:, None, :, None]
    k = rotate(k, *factors)
    query = dtype.decode(query).transpose(0, 2, 1, 3)
    for r in range(batch):
        real, start = lengths[r], slots[r]
        keys, values = cache.read(r)
        for result, exact in (
            (query[r], q[r]),
            (keys[:, start : start + length], k[r]),
            (values[:, start:][:, :length], v[r]),
        ):
            assert_accurate(result[:, :real], exact[:, :real], dtype.round(exact)[:, :real], dtype, scale=4)
            assert np.isnan(result[:, real:]).all()
        assert np.isnan(keys[:, :start]).all() and np.isnan(keys[:, start + length :]).all()


@pytest.mark.parametrize(
    ("batch", "length", "heads", "head_dim", "offset"),
    [(2, 5, 3, 32, 0), (2, 3, 2, 104, 0), (1, 4, 2, 32, 1), (3, 1, 2, 128, 0), (0, 1, 2, 8, 0)],
)
@pytest.mark.parametrize("everything", [False, True], ids=["plain", "tables, logn"])
def test_gradient_matches_float64(emulated, arrays, random, dtype, batch, length, heads, head_dim, offset, everything):
    shape = (batch, heads, length, head_dim)
    grads = [dtype.round(random.normal(size=shape)) for _ in range(3)]
    cos, sin = make_tables(random, head_dim)
    positions = random.integers(0, TABLE_LENGTH, size=(batch, length), dtype=np.int32)
    tables = random.integers(0, TABLES, size=batch, dtype=np.int32) if everything else np.zeros(batch, np.int32)
    logn = random.uniform(1, 2, size=TABLE_LENGTH).astype(np.float32) if everything else np.ones(TABLE_LENGTH)
    result = arrays.empty((batch, length, 3 * heads * head_dim), dtype.storage)
    emulated("rotary_qkv").launch(
        "rotary_qkv_grad", dtype.code, *(arrays.place(dtype.encode(grad), offset) for grad in grads),
        arrays.place(cos), arrays.place(sin), TABLE_LENGTH, arrays.place(tables) if everything else None,
        arrays.place(positions), arrays.place(logn.astype(np.float32)) if everything else None, result,
        batch, length, heads, head_dim,
    )  # fmt: skip
    factors = [table.astype(np.float64)[tables[:, None], positions][:, None] for table in (cos, sin)]
    q = rotate_back(grads[0] * logn.astype(np.float64)[positions][:, None, :, None], *factors)
    for part, exact in zip(split_heads(dtype.decode(result), heads), (q, rotate_back(grads[1], *factors), grads[2])):
        assert_accurate(part, exact, dtype.round(exact), dtype, scale=4)


def test_gradient_is_that_of_the_rotation(random):
    cos, sin = (table[0, 7].astype(np.float64) for table in make_tables(random, 8))
    jacobian = rotate(np.eye(8), cos, sin).T
    np.testing.assert_allclose(rotate_back(np.eye(8), cos, sin), jacobian, atol=1e-7)
