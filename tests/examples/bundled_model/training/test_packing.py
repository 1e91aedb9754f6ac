"""Packed conversations get the logits that they would get alone."""

import numpy as np
import paddle
import pytest

from examples.bundled_model.training.packing import (
    IGNORE_INDEX,
    TokenSpan,
    context,
    pack_branches,
    pad_rows,
    predicting_positions,
)
from examples.bundled_model.training.segments import PADDING, visibility
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel


def answer(*ids: int) -> TokenSpan:
    return TokenSpan(list(ids), [1.0] * len(ids))


@pytest.fixture(scope="module")
def model() -> QWenLMHeadModel:
    paddle.seed(3)
    visual = {"image_size": 28, "width": 16, "layers": 1, "heads": 2, "output_dim": 32, "image_start_id": 60}
    config = QWenVLConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        kv_channels=16,
        intermediate_size=64,
        visual={**visual, "n_queries": 4, "num_positions": 4},
    )
    model = QWenLMHeadModel(config)
    model.train()
    return model


SHARED = context([1, 2, 3, 4, 5])
BRANCHES = [context([6, 7]) + answer(8, 9), context([10]) + answer(11, 12, 13), answer(14)]


def test_a_packed_branch_gets_the_logits_of_the_same_conversation_alone(model):
    row = pad_rows([pack_branches(SHARED, BRANCHES), pack_branches(SHARED, BRANCHES[:1])], pad_id=0)
    packed = model(
        paddle.to_tensor(row.input_ids),
        attention_mask=paddle.to_tensor(visibility(row.segments)),
        position_ids=paddle.to_tensor(row.position_ids),
    ).logits.numpy()
    for index, branch in enumerate(BRANCHES, start=1):
        alone = model(paddle.to_tensor([SHARED.ids + branch.ids])).logits.numpy()[0, len(SHARED.ids) :]
        np.testing.assert_allclose(packed[0][row.segments[0] == index], alone, atol=2e-6)


def test_a_packed_batch_has_the_loss_of_its_conversations(model):
    row = pad_rows([pack_branches(SHARED, BRANCHES)], pad_id=0)
    sources, targets = predicting_positions(row.labels, row.segments)
    hidden, _ = model.transformer(
        model.transformer.embed(paddle.to_tensor(row.input_ids)),
        paddle.to_tensor(visibility(row.segments)),
        paddle.to_tensor(row.position_ids),
    )
    logits = model.lm_head(hidden).reshape([-1, 64])
    labels = paddle.to_tensor(row.labels.reshape(-1)[targets])
    packed = paddle.nn.functional.cross_entropy(paddle.gather(logits, paddle.to_tensor(sources)), labels)

    total = count = 0.0
    for branch in BRANCHES:
        ids = SHARED.ids + branch.ids
        weights = SHARED.weights + branch.weights
        labels = [token if weight else IGNORE_INDEX for token, weight in zip(ids, weights)]
        learned = sum(map(bool, weights))
        total += float(model(paddle.to_tensor([ids]), labels=paddle.to_tensor([labels])).loss) * learned
        count += learned
    assert float(packed) == pytest.approx(total / count, abs=1e-5)


def test_targets_are_predicted_from_the_token_before_them_in_the_conversation():
    row = pad_rows([pack_branches(SHARED, BRANCHES)], pad_id=0)
    sources, targets = predicting_positions(row.labels, row.segments)
    ids = row.input_ids.reshape(-1)
    pairs = list(zip(ids[sources].tolist(), ids[targets].tolist()))
    # The last branch begins with a target, whose predecessor is the last shared token.
    assert pairs == [(7, 8), (8, 9), (10, 11), (11, 12), (12, 13), (5, 14)]


def test_positions_of_every_branch_continue_the_shared_part():
    row = pack_branches(SHARED, BRANCHES)
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 5]


def test_padding_is_seen_by_nobody_and_sees_only_itself():
    row = pad_rows([pack_branches(SHARED, BRANCHES), pack_branches(SHARED, BRANCHES[:1])], pad_id=0)
    seen = visibility(row.segments)
    padding = row.segments[1] == PADDING
    assert padding.sum() == 5
    assert not seen[1][~padding][:, padding].any()
    assert not seen[1][padding][:, ~padding].any()
    assert row.labels[1][padding].tolist() == [IGNORE_INDEX] * 5
