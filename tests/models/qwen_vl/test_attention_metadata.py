import numpy as np
import paddle
import pytest

from paddlemix.errors import PromptError
from paddlemix.models.qwen_vl.attention_metadata import (
    PADDED_SCORES,
    CachedAttention,
    DenseAttention,
    PackedAttention,
    PackedSequence,
    attention_metadata,
    dense_mask,
    grouped_by_length,
    paged_attention,
    rotary_base,
    sequence_groups,
    visible_positions,
)
from paddlemix.models.qwen_vl.kv_cache import KVCache
from tests.golden_model import golden_config, golden_model


@pytest.mark.parametrize("alpha", [1.0, 3.0, 7.0])
def test_ntk_stretches_the_rotary_base(alpha):
    assert rotary_base(golden_config(), alpha) == pytest.approx(10000 * alpha ** (64 / 62))


def test_published_geometry_has_the_published_bases():
    class Published:
        rotary_emb_base = 10000
        kv_channels = 128

    for alpha, base in ((1, 10000), (3, 30527.74), (7, 72195.86), (15, 156588.32)):
        assert rotary_base(Published, alpha) == pytest.approx(base, abs=0.01)


def metadata_for(length, past, batch=1, scale_queries=True, position_ids=None):
    return attention_metadata(
        golden_config(), batch, length, past, 1.0, scale_queries, None, position_ids, False, paddle.float32
    )


def test_positions_continue_behind_the_cache():
    metadata = metadata_for(length=2, past=5, batch=2)
    np.testing.assert_array_equal(metadata.positions.numpy(), [[5, 6], [5, 6]])
    np.testing.assert_array_equal(metadata.cache_positions.numpy(), [5, 5])
    np.testing.assert_array_equal(metadata.kv_lengths.numpy(), [7, 7])


def test_given_positions_move_the_rotation_and_not_the_slots():
    metadata = metadata_for(length=2, past=5, position_ids=paddle.to_tensor([[1030, 0]]))
    np.testing.assert_array_equal(metadata.positions.numpy(), [[1030, 0]])
    assert metadata.rotation.cos.shape[1] == 2048
    np.testing.assert_array_equal(metadata.cache_positions.numpy(), [5])


def test_logn_scales_only_queries_beyond_the_trained_length():
    assert metadata_for(length=128, past=0).rotation.logn is None  # seq_length 128
    assert metadata_for(length=129, past=0, scale_queries=False).rotation.logn is None
    factors = metadata_for(length=129, past=0).rotation.logn.numpy()[126:131]
    expected = [1, 1, np.log(129) / np.log(128), np.log(130) / np.log(128), np.log(131) / np.log(128)]
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


def test_padding_on_the_left_becomes_the_first_visible_slot():
    padding = paddle.to_tensor([[0, 0, 1], [1, 1, 1]])
    starts, mask = visible_positions(padding, 2, 1, 3, paddle.float32)
    assert mask is None
    np.testing.assert_array_equal(starts.numpy(), [2, 0])


def test_a_mask_that_hides_nothing_costs_nothing():
    assert visible_positions(paddle.ones([2, 3]), 2, 1, 3, paddle.float32) == (None, None)
    assert visible_positions(None, 2, 1, 3, paddle.float32) == (None, None)


def test_gaps_become_a_mask_that_shows_new_tokens():
    starts, mask = visible_positions(paddle.to_tensor([[1, 0, 1], [1, 1, 0]]), 2, 2, 3, paddle.float32)
    assert starts is None
    expected = np.array([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1]])[:, None].repeat(2, axis=1)
    np.testing.assert_array_equal(mask.numpy() == 0, expected)
    assert np.isfinite(mask.numpy()).all()


def test_dense_mask_is_causal():
    np.testing.assert_array_equal(dense_mask(3, None, paddle.float32).numpy() == 0, np.tri(3))


def test_dense_mask_hides_padding():
    padding = paddle.to_tensor([[0, 1, 1], [1, 1, 0]])
    expected = np.tri(3) * padding.numpy()[:, None]
    np.testing.assert_array_equal(dense_mask(3, padding, paddle.float32).numpy()[:, 0] == 0, expected)


def test_dense_mask_can_separate_samples_in_one_row():
    block = np.zeros((1, 4, 4), bool)
    block[:, :2, :2] = block[:, 2:, 2:] = True
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(dense_mask(4, paddle.to_tensor(block), paddle.float32).numpy() == 0, expected)


def sequences_of(*lengths):
    ends = np.cumsum(lengths)
    return [PackedSequence(0, int(end - length), int(end)) for length, end in zip(lengths, ends)]


def test_sequences_of_about_one_length_attend_together():
    groups = grouped_by_length(sequences_of(20, 119, 120, 25))
    assert [[sequence.end - sequence.start for sequence in group] for group in groups] == [[120, 119], [25, 20]]


def test_a_group_wastes_little_on_padding():
    lengths = np.random.default_rng(0).integers(5, 900, 40)
    groups = grouped_by_length(sequences_of(*lengths))
    assert 1 < len(groups) < 40
    for group in groups:
        own = [sequence.end - sequence.start for sequence in group]
        assert len(own) * max(own) ** 2 - sum(length**2 for length in own) <= PADDED_SCORES
    assert sorted(sequence for group in groups for sequence in group) == sequences_of(*lengths)


def test_what_is_gathered_into_groups_is_put_back_in_its_place():
    sequences = [
        PackedSequence(0, 0, 3),
        PackedSequence(0, 3, 700),
        PackedSequence(1, 0, 600),
        PackedSequence(1, 600, 700),
    ]
    positions = np.concatenate([np.arange(sequence.end - sequence.start) for sequence in sequences]).reshape(2, 700)
    groups, indices, restore = sequence_groups(sequences, paddle.to_tensor(positions.astype(np.int32)), paddle.float32)
    assert len(groups) > 1
    np.testing.assert_array_equal(indices.numpy()[restore.numpy()], np.arange(1400))
    for group in groups:
        own = np.minimum.accumulate(np.diff(group.positions.numpy(), axis=1) == 1, axis=1).sum(axis=1) + 1
        assert set(own) <= {3, 697, 600, 100} and (group.positions.numpy()[:, 0] == 0).all()
        assert group.mask.shape == [own.max(), own.max()]


@pytest.mark.parametrize("beside", ["attention_mask", "past_key_values"])
def test_sequences_stand_alone(beside):
    model = golden_model().transformer
    embeddings = model.wte(paddle.to_tensor([[1, 2, 3]]))
    other = {"attention_mask": paddle.ones([1, 3], "int64"), "past_key_values": KVCache(golden_config(), 1, 8, 8)}[
        beside
    ]
    with pytest.raises(PromptError, match=f"sequences: got them beside {beside}"):
        model(embeddings, sequences=[PackedSequence(0, 0, 3)], **{beside: other})


def test_each_way_to_attend_has_its_form():
    def form(with_gradients=False, sequences=None):
        return type(
            attention_metadata(
                golden_config(), 1, 4, 0, 1.0, True, None, None, with_gradients, paddle.float32, sequences=sequences
            )
        )

    assert form() is CachedAttention
    assert form(with_gradients=True) is DenseAttention
    assert form(sequences=[PackedSequence(0, 0, 4)]) is PackedAttention


def test_rows_of_blocks_have_their_own_places_lengths_and_rotary_tables():
    starts, lengths = np.array([0, 70], np.int32), np.array([3, 1], np.int32)
    table = np.array([[4, 0], [2, 5]], np.int32)
    metadata = paged_attention(golden_config(), starts, lengths, table, [3.0, 1.0])
    np.testing.assert_array_equal(metadata.positions.numpy(), [[0, 1, 2], [70, 71, 72]])
    np.testing.assert_array_equal(metadata.lengths.numpy(), lengths)
    np.testing.assert_array_equal(metadata.kv_lengths.numpy(), [3, 71])
    np.testing.assert_array_equal(metadata.table_index.numpy(), [1, 0])
    alone = paged_attention(golden_config(), starts[:1], lengths[:1], table[:1], [3.0])
    assert alone.lengths is None and alone.table_index is None
    np.testing.assert_array_equal(alone.rotation.cos.numpy()[0], metadata.rotation.cos.numpy()[1])
