"""Layers of a pass that share their masks compute what each does with its own."""

import numpy as np
import paddle
import pytest

from paddlemix.ops.attention_masks import AttentionPass
from paddlemix.ops.attention_prefill import attention_by_paddle, attention_reference
from tests.ops.test_attention_prefill import exact, make, run, scenarios

NONE = dict.fromkeys(["query_starts", "kv_starts", "block_table", "mask"])


@pytest.mark.parametrize("attend", [attention_reference, attention_by_paddle])
@pytest.mark.parametrize("name", scenarios(1, 20))
def test_layers_of_a_pass_share_masks(attend, name):
    rest = {**NONE, **scenarios(12, 40)[name]}
    shared = AttentionPass(int(rest["kv_lengths"].max()))
    masks = []
    for layer in range(2):
        query, key, value = (x + np.float32(layer) for x in make(12, 40, 16))
        actual = run(lambda *heads, **rest: attend(*heads, **rest, shared=shared), query, key, value, **rest)
        np.testing.assert_allclose(actual.numpy(), exact(query, key, value, **rest), rtol=0, atol=1e-5)
        masks.append(shared.masks)
    assert masks[0] is masks[1] is not None


def test_blocks_beyond_the_longest_row_are_not_looked_at():
    generator = np.random.default_rng(2)
    query = generator.normal(size=[2, 2, 5, 16]).astype(np.float32)
    key, value = (generator.normal(size=[6, 2, 8, 16]).astype(np.float32) for _ in range(2))
    table = np.array([[4, 2, 99], [1, 0, -3]], np.int32)  # the third is behind the end of both rows
    starts = np.array([9, 6], np.int32)
    rest = {**NONE, "kv_lengths": starts + 5, "query_starts": starts, "block_table": table}
    shared = AttentionPass(14)
    actual = run(lambda *heads, **rest: attention_by_paddle(*heads, **rest, shared=shared), query, key, value, **rest)
    expected = exact(query, key, value, **{**rest, "block_table": table[:, :2]})
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=5e-6)
    assert shared.masks.rows.slots == 14 and isinstance(shared.masks.rows.blocks, paddle.Tensor)
