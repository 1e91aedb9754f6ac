"""The loss of where to look is the attention that the model itself computes."""

import numpy as np
import paddle
import pytest

from examples.bundled_model.training.pointers import HEAD, pointer_loss
from examples.bundled_model.training.train import build_training_model
from paddlemix import ops
from paddlemix.models.qwen_vl.attention_metadata import attention_metadata
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.zoo import DEFAULT_MODEL_DIR


@pytest.fixture(scope="module")
def model():
    paddle.seed(1)
    return build_training_model(QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR), head_weight=0.5).model


def attention_of_the_head(model, layer: int, states, position_ids, mask) -> np.ndarray:
    """``[rows, length, length]``, from the model's own rotation of queries and keys."""
    block = model.transformer.h[layer]
    rows, length, _ = states.shape
    metadata = attention_metadata(
        model.config, rows, length, 0, 1.0, scale_queries=False, padding_mask=mask, position_ids=position_ids,
        with_gradients=True, dtype=states.dtype,
    )  # fmt: skip
    packed = block.attn.c_attn(block.ln_1(states, None)[0])
    query, key, _ = ops.rotary_qkv(
        packed, None, block.attn.heads, metadata.rotation.cos, metadata.rotation.sin, metadata.positions
    )
    scores = (query[:, HEAD] @ key[:, HEAD].transpose([0, 2, 1])) * model.config.kv_channels**-0.5
    masked = scores + metadata.mask.reshape(scores.shape)
    return paddle.nn.functional.softmax(masked, axis=-1).numpy()


@paddle.no_grad()
def test_it_is_the_weighted_mean_of_what_the_head_does_not_give_to_the_right_column(model):
    generator = np.random.default_rng(3)
    rows, length = 2, 12
    states = paddle.to_tensor(generator.standard_normal([rows, length, model.config.hidden_size]).astype(np.float32))
    position_ids = paddle.to_tensor(np.tile(np.r_[0:8, 3:7], [rows, 1]).astype(np.int64))
    mask = np.ones([rows, length, length], bool)
    mask[:, 8:, 4:8] = False
    positions, columns = np.array([5, 9, 12 + 11]), np.array([2, 3, 1])
    weights = np.array([1.0, 4.0, 0.5], np.float32)
    attention = attention_of_the_head(model, 2, states, position_ids, paddle.to_tensor(mask))
    given = attention.reshape(rows * length, length)[positions, columns]
    expected = -(np.log(given) * weights).sum() / weights.sum()
    tensors = map(paddle.to_tensor, (mask, positions, columns, weights))
    loss = pointer_loss(model.config, model.transformer.h[2], states, position_ids, *tensors)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_without_anything_to_look_for_it_is_zero_and_still_connected(model):
    states = paddle.ones([1, 4, model.config.hidden_size])
    states.stop_gradient = False
    nothing = paddle.zeros([0], "int64")
    loss = pointer_loss(
        model.config, model.transformer.h[0], states, paddle.arange(4).unsqueeze(0), paddle.ones([1, 4, 4], "bool"),
        nothing, nothing, paddle.zeros([0]),
    )  # fmt: skip
    loss.backward()
    assert float(loss) == 0.0
    assert float(states.grad.abs().sum()) == 0.0
