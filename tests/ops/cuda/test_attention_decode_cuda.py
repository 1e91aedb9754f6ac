"""Attention of a few queries over a cache, on the emulated device. What no query sees holds NaN in all these tests."""

import ctypes
from dataclasses import dataclass
from typing import Optional

import numpy as np
import pytest

from tests.ops.cuda.emulation import BFLOAT16, FLOAT16, FLOAT32, KeyValues, Strides, Visibility, assert_accurate


@dataclass
class Problem:
    """Queries [batch, heads, length, head_dim], keys and values [batch, heads, capacity, head_dim], what is seen."""

    query: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    kv_lengths: np.ndarray
    query_starts: Optional[np.ndarray] = None
    kv_starts: Optional[np.ndarray] = None
    mask: Optional[np.ndarray] = None

    @classmethod
    def random(cls, random, dtype, heads, length, head_dim, kv_lengths, capacity=None, **visibility) -> "Problem":
        capacity = capacity or max(kv_lengths)
        make = [
            dtype.round(random.normal(size=(len(kv_lengths), heads, n, head_dim))) for n in (length, capacity, capacity)
        ]
        return cls(*make, np.array(kv_lengths, np.int32), **visibility)

    @property
    def scale(self) -> float:
        return self.query.shape[-1] ** -0.5

    def seen(self) -> np.ndarray:
        """[batch, length, capacity]: which slots each query sees."""
        batch, _, length, _ = self.query.shape
        slots = np.arange(self.keys.shape[2])
        seen = np.broadcast_to(slots < self.kv_lengths[:, None, None], (batch, length, len(slots)))
        if self.kv_starts is not None:
            seen = seen & (slots >= self.kv_starts[:, None, None])
        if self.query_starts is not None:
            seen = seen & (slots <= self.query_starts[:, None, None] + np.arange(length)[:, None])
        return seen

    def solve(self, precision=np.float64) -> np.ndarray:
        """[batch, length, heads * head_dim]"""
        query, keys, values = (a.astype(precision) for a in (self.query, self.keys, self.values))
        seen = self.seen()[:, None]
        scores = query @ keys.transpose(0, 1, 3, 2) * precision(self.scale)
        if self.mask is not None:
            scores = scores + self.mask[:, None, :, : scores.shape[-1]].astype(precision)
        scores = np.where(seen, scores, -np.inf)
        highest = scores.max(-1, keepdims=True)
        weights = np.exp(scores - np.where(highest == -np.inf, 0, highest))
        total = weights.sum(-1, keepdims=True)
        out = weights @ np.where(seen.any(2, keepdims=True).swapaxes(2, 3), values, 0) / np.where(total == 0, 1, total)
        batch, heads, length, head_dim = out.shape
        return out.transpose(0, 2, 1, 3).reshape(batch, length, heads * head_dim)


def run(launchers, arrays, random, dtype, problem: Problem, block_size=None, offset=0, multiprocessors=4) -> np.ndarray:
    """The kernel's answer in float64; the cache is NaN where no query looks."""
    launchers.set_multiprocessors(multiprocessors)
    batch, heads, length, head_dim = problem.query.shape
    capacity = problem.keys.shape[2]
    cache = KeyValues.empty(arrays, dtype, batch, heads, capacity, head_dim, block_size, random, offset)
    for row, seen in enumerate(problem.seen().any(1)):
        slots = np.flatnonzero(seen)
        if len(slots):
            part = slice(slots[0], slots[-1] + 1)
            cache.write(row, slots[0], problem.keys[row][:, part], problem.values[row][:, part])

    def optional(array):
        return None if array is None else arrays.place(array)

    starts, kv_starts, lengths, mask = map(
        optional, (problem.query_starts, problem.kv_starts, problem.kv_lengths, problem.mask)
    )
    visibility = Visibility(
        *(None if a is None else a.ctypes.data for a in (starts, kv_starts, lengths, mask)),
        0 if mask is None else len(mask), 0 if mask is None else mask.shape[-1],
    )  # fmt: skip
    longest = int(problem.kv_lengths.max())
    # As it comes from rotary_qkv: [batch, length, heads, head_dim] in memory.
    query = arrays.place(dtype.encode(problem.query.transpose(0, 2, 1, 3)))
    out = arrays.empty((batch, length, heads * head_dim), dtype.storage)
    size = launchers.call_int64("attention_decode_workspace", batch, heads, length, head_dim, longest)
    workspace = arrays.empty(size // 4, np.float32)
    launchers.launch(
        "attention_decode", dtype.code, query, Strides(length * heads * head_dim, head_dim, heads * head_dim),
        ctypes.byref(cache.description), ctypes.byref(visibility), ctypes.c_float(problem.scale), out, workspace,
        longest, batch, heads, length, head_dim,
    )  # fmt: skip
    return dtype.decode(out)


def check(result, problem, dtype):
    assert_accurate(
        result, problem.solve(), dtype.round(problem.solve(np.float32)), dtype, scale=np.abs(problem.values).max()
    )


@pytest.mark.parametrize(
    ("heads", "length", "head_dim", "kv_lengths", "offset"),
    [
        (2, 1, 128, [300, 77], 0),  # split into parts
        (2, 1, 104, [65], 0),
        (1, 1, 256, [130], 0),
        (1, 1, 8, [1, 5, 33], 0),
        (1, 4, 128, [70], 0),
        (2, 3, 64, [40, 9], 0),
        (1, 8, 128, [67], 0),
        (1, 5, 240, [20], 0),
        (1, 2, 104, [35], 1),  # keys and values not aligned to 16 bytes
        (1, 1, 256, [9], 3),
    ],
)
@pytest.mark.parametrize("block_size", [None, 16])
def test_full_attention_matches_float64(
    emulated, arrays, random, dtype, heads, length, head_dim, kv_lengths, offset, block_size
):
    capacity = (max(kv_lengths) + 16) // 16 * 16
    problem = Problem.random(random, dtype, heads, length, head_dim, kv_lengths, capacity)
    result = run(emulated("attention_decode"), arrays, random, dtype, problem, block_size, offset)
    check(result, problem, dtype)


@pytest.mark.parametrize("length", [1, 4, 7])
@pytest.mark.parametrize("block_size", [None, 5])
def test_causal_queries_at_different_places_match_float64(emulated, arrays, random, dtype, length, block_size):
    lengths = [90 + length, 20 + length, length]
    problem = Problem.random(
        random, dtype, 2, length, 32, lengths, 100,
        query_starts=np.array([90, 20, 0], np.int32), kv_starts=np.array([7, 0, 0], np.int32),
    )  # fmt: skip
    check(run(emulated("attention_decode"), arrays, random, dtype, problem, block_size), problem, dtype)


@pytest.mark.parametrize("mask_batch", [1, 2])
def test_mask_is_added_to_the_scores(emulated, arrays, random, dtype, mask_batch):
    mask = random.normal(size=(mask_batch, 3, 80)).astype(np.float32)
    mask[random.random(mask.shape) < 0.3] = -np.inf
    problem = Problem.random(random, dtype, 2, 3, 32, [70, 75], 80, mask=mask)
    check(run(emulated("attention_decode"), arrays, random, dtype, problem), problem, dtype)


def test_query_that_sees_nothing_gives_zeros(emulated, arrays, random, dtype):
    mask = np.zeros((3, 1, 70), np.float32)
    mask[2] = -np.inf
    problem = Problem.random(random, dtype, 2, 1, 32, [70, 0, 70], mask=mask)
    result = run(emulated("attention_decode"), arrays, random, dtype, problem)
    check(result, problem, dtype)
    assert not result[1:].any()


def test_masked_slot_may_hold_anything(emulated, arrays, random):
    mask = np.zeros((1, 1, 40), np.float32)
    mask[..., :3] = -np.inf
    problem = Problem.random(random, FLOAT32, 1, 1, 32, [40], mask=mask)
    expected = problem.solve()
    problem.values[..., :3, :] = np.nan
    np.testing.assert_allclose(run(emulated("attention_decode"), arrays, random, FLOAT32, problem), expected, atol=1e-6)


def test_later_token_does_not_reach_earlier_queries(emulated, arrays, random):
    problem = Problem.random(random, FLOAT16, 1, 4, 64, [20], query_starts=np.array([16], np.int32))
    expected = problem.solve()
    problem.keys[:, :, 18] = problem.values[:, :, 18] = np.nan
    result = run(emulated("attention_decode"), arrays, random, FLOAT16, problem)
    np.testing.assert_allclose(result[:, :2], expected[:, :2], atol=2e-3)
    assert np.isnan(result[:, 2:]).all()


def test_not_a_number_stays_in_its_row_and_head(emulated, arrays, random, dtype):
    problem = Problem.random(random, dtype, 2, 1, 32, [150, 150])
    problem.keys[0, 1, 140, 3] = np.nan
    result = run(emulated("attention_decode"), arrays, random, dtype, problem).reshape(2, 2, 32)
    assert np.isnan(result[0, 1]).all()
    assert np.isfinite(result[0, 0]).all() and np.isfinite(result[1]).all()


def test_large_scores_do_not_overflow(emulated, arrays, random):
    problem = Problem.random(random, BFLOAT16, 1, 1, 64, [100])
    problem.query *= 64
    problem.keys *= 64
    check(run(emulated("attention_decode"), arrays, random, BFLOAT16, problem), problem, BFLOAT16)


@pytest.mark.parametrize("multiprocessors", [1, 3, 100])
def test_any_number_of_parts_gives_the_same(emulated, arrays, random, multiprocessors):
    problem = Problem.random(random, FLOAT32, 1, 1, 64, [333])
    result = run(emulated("attention_decode"), arrays, random, FLOAT32, problem, multiprocessors=multiprocessors)
    check(result, problem, FLOAT32)


def test_more_than_eight_queries_are_refused(emulated, arrays, random):
    problem = Problem.random(random, FLOAT32, 1, 9, 8, [10])
    with pytest.raises(AssertionError, match="CUDA error 1"):
        run(emulated("attention_decode"), arrays, random, FLOAT32, problem)
