"""Which part of each weight a process has: heads, hidden units and tokens, never cut."""

import numpy as np
import pytest

from paddlemix.checkpoint.shards import Partition, Shard, share
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.zoo import DEFAULT_MODEL_DIR

CONFIG = QWenVLConfig.from_directory(DEFAULT_MODEL_DIR)


def test_units_are_shared_out_evenly():
    assert [list(share(5, rank, 3)) for rank in range(3)] == [[0], [1, 2], [3, 4]]


@pytest.mark.parametrize("size", [2, 3])
def test_the_parts_of_all_processes_are_the_weights(size):
    shapes = WEIGHTS.expected_shapes(CONFIG)
    partitions = [Partition(WEIGHTS, CONFIG, rank, size) for rank in range(size)]
    assert {part for name in partitions[0].shards for part in name.split(".")} >= {
        *("wte", "lm_head", "c_attn", "w1", "w2", "c_proj", "in_proj", "out_proj", "c_fc")
    }
    rng = np.random.default_rng(0)
    for name, shard in partitions[0].shards.items():
        whole = rng.standard_normal(shapes[name]).astype("float32")
        joined = np.zeros_like(whole)
        for partition in partitions:
            own = partition.shards[name]
            part = own.take(whole)
            assert part.shape == own.shape
            if whole.ndim == 2:
                np.testing.assert_array_equal(own.take(whole.T, transposed=True), part.T)
            own.put(joined, part)
        np.testing.assert_array_equal(joined, whole, err_msg=name)
        assert shard.whole == whole.shape


def test_queries_keys_and_values_are_of_the_same_heads():
    own = Partition(WEIGHTS, CONFIG, 1, 3).shards["transformer.h.0.attn.c_attn.weight"]
    width, head = CONFIG.hidden_size, CONFIG.kv_channels
    assert [part.start for part in own.slices] == [head, width + head, 2 * width + head]
    assert {part.stop - part.start for part in own.slices} == {head}


def test_what_has_fewer_units_than_processes_stays_whole():
    partition = Partition(WEIGHTS, CONFIG, 0, CONFIG.num_attention_heads + 1)
    assert "transformer.h.0.attn.c_attn.weight" not in partition.shards
    assert "transformer.h.0.mlp.w1.weight" in partition.shards
    assert list(partition.own("heads")) == list(range(CONFIG.num_attention_heads))


def test_shares_begin_where_they_may():
    def alignment(rule, axis):
        return 128 if rule.part == "blocks" and axis == 0 else 16

    partitions = [Partition(WEIGHTS, CONFIG, rank, 2, alignment) for rank in range(2)]
    for name, shard in partitions[1].shards.items():
        if name.startswith("transformer.h.") and shard.axis == 0 and len(shard.whole) == 2:
            assert shard.slices[0].start % 128 == 0, name


def test_the_finest_alignment_holds_where_there_would_be_too_few_pieces():
    def alignment(rule, axis):
        return 1 << 20 if rule.part == "visual" else 16

    heads = CONFIG.num_attention_heads
    for finest, own in ((None, CONFIG.visual.heads), (lambda rule, axis: 4, CONFIG.visual.heads // 2)):
        partition = Partition(WEIGHTS, CONFIG, 1, 2, alignment, finest)
        assert len(partition.own("vit_heads")) == own
        assert len(partition.own("heads")) == heads - heads // 2
        name = "transformer.visual.transformer.resblocks.0.attn.in_proj.weight"
        assert (name in partition.shards) == (finest is not None)
        if finest is not None:
            assert partition.of_all(name)[0].slices[0].stop == partition.shards[name].slices[0].start


def test_places_in_a_part_are_found_in_the_whole():
    shard = Shard((12,), 0, (slice(2, 4), slice(8, 11)))
    assert shard.in_whole(slice(1, 4)) == [slice(3, 4), slice(8, 10)]
    assert shard.take(np.arange(12)).tolist() == [2, 3, 8, 9, 10]
