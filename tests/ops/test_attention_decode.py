"""What is particular to decoding; what it shares with the prefill is in test_attention_prefill.py."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.ops.attention_decode import attention_decode
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact
from tests.ops.test_attention_prefill import exact, int32, make, run, scenarios


@pytest.mark.parametrize("head_dim", [1, 7, 64, 104, 260])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("name", ["padded on the left", "mask"])
def test_decode_is_as_exact_as_paddle(fused, head_dim, length, name):
    query, key, value = make(length, 700, head_dim)
    rest = scenarios(length, 700)[name]
    with ops.using("reference"):
        reference = run(attention_decode, query, key, value, **rest)
    expected = exact(query, key, value, **rest)
    for _ in each_instruction_set():
        assert_as_exact(run(attention_decode, query, key, value, **rest), reference, expected)


@pytest.mark.parametrize("slots", [1, 255, 256, 257, 4000])
def test_pieces_of_every_length_are_put_together(any_backend, slots):
    query, key, value = make(2, slots, 32, batch=1)
    rest = {"kv_lengths": int32(slots), "query_starts": int32(slots - 2)}
    actual = run(attention_decode, query, key, value, **rest)
    np.testing.assert_allclose(actual.numpy(), exact(query, key, value, **rest), rtol=0, atol=5e-6)


def test_a_piece_that_is_hidden_altogether_changes_nothing(any_backend):
    query, key, value = make(1, 900, 32, batch=1)
    mask = np.zeros([1, 1, 900], np.float32)
    mask[:, :, 256:512] = -np.inf
    actual = run(attention_decode, query, key, value, kv_lengths=int32(900), mask=mask)
    seen = [np.delete(x, slice(256, 512), axis=2) for x in (key, value)]
    np.testing.assert_allclose(actual.numpy(), exact(query, *seen, int32(644)), rtol=0, atol=5e-6)


def test_rows_of_very_different_lengths_do_not_disturb_each_other(any_backend):
    query, key, value = make(1, 1000, 16, batch=5)
    lengths = int32(1000, 0, 1, 257, 999)
    actual = run(attention_decode, query, key, value, kv_lengths=lengths, query_starts=lengths - 1).numpy()
    for row in range(5):
        alone = run(
            attention_decode,
            *(x[row : row + 1] for x in (query, key, value)),
            kv_lengths=lengths[row : row + 1],
            query_starts=lengths[row : row + 1] - 1,
        )
        np.testing.assert_allclose(actual[row], alone.numpy()[0], rtol=0, atol=1e-6)


def test_slots_of_bfloat16_blocks_are_read_through_the_table(instruction_set):
    query = make(3, 1, 104, batch=1)[0]
    key, value = (paddle.to_tensor(x).astype("bfloat16") for x in make(1, 5, 104, batch=30)[1:])
    table = np.arange(30, dtype=np.int32)[::-1].reshape(1, 30).copy()
    rest = {"kv_lengths": int32(148), "query_starts": int32(145), "block_table": table}
    actual = run(attention_decode, query, key, value, **rest)
    rounded = [x.astype("float32").numpy() for x in (key, value)]
    np.testing.assert_allclose(actual.numpy(), exact(query, *rounded, **rest), rtol=0, atol=5e-6)
