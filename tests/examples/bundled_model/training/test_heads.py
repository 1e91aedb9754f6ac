"""The model in training learns, and its heads leave no trace in it."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from examples.bundled_model.scenes.scoring import iou
from examples.bundled_model.training.dataset import SceneCollator, SceneDataset
from examples.bundled_model.training.heads import generalized_iou, soften
from examples.bundled_model.training.recipe import IMAGE_SIZE, PATCH_SIZE, QUERY_GRID, small_config
from examples.bundled_model.training.train import build_training_model
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.zoo import DEFAULT_MODEL_DIR


@pytest.fixture(scope="module")
def batch() -> dict:
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    scenes = SceneDataset(tokenizer, 5, image_size=IMAGE_SIZE, grid=QUERY_GRID, patch_grid=IMAGE_SIZE // PATCH_SIZE)
    collate = SceneCollator(QwenVLImageProcessor(image_size=IMAGE_SIZE), tokenizer.eod_id)
    return {name: paddle.to_tensor(array) for name, array in collate(scenes[range(4)]).items()}


@pytest.fixture
def training_model():
    paddle.seed(1)
    return build_training_model(QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR), head_weight=0.5)


def test_every_parameter_gets_a_gradient(training_model, batch):
    training_model(**batch)["loss"].backward()
    without = [
        name
        for name, parameter in training_model.named_parameters()
        if not parameter.stop_gradient and (parameter.grad is None or not float(parameter.grad.abs().sum()))
    ]
    assert without == []


@pytest.mark.slow
def test_some_steps_on_one_batch_lower_every_loss(training_model, batch):
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=training_model.parameters())
    training_model(**batch)
    before = {name: float(value) for name, value in training_model.parts.items()}
    for _ in range(40):
        training_model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    after = {name: float(value) for name, value in training_model.parts.items()}
    vision = {"patch", "patch_box", "patch_word", "object", "word", "read_word", "kind", "box", "digit", "color"}
    assert set(after) == vision | {"text", "naming", "reading", "twin", "named_box", "number"}
    assert all(after[name] < before[name] for name in before), (before, after)


def test_the_vision_stage_needs_no_text(training_model, batch):
    vision = ("images", "kinds", "boxes", "digits", "colors", "words", "patches", "patch_boxes", "patch_words")
    training_model(**{name: batch[name] for name in vision})["loss"].backward()
    assert "text" not in training_model.parts
    assert training_model.model.lm_head.weight.grad is None


def test_the_trained_model_has_the_published_parameter_names_and_no_heads(training_model):
    names = {name for name, _ in training_model.model.named_parameters()}
    assert "transformer.visual.attn_pool.attn.in_proj_weight" in names
    assert not any("head" in name for name in names - {"lm_head.weight"})


def test_the_configuration_survives_its_file_format():
    config = small_config(QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR))
    again = type(config)(**config.to_dict())
    assert again.visual.to_dict() == config.visual.to_dict()
    assert again.rotary_emb_base == config.rotary_emb_base


def test_softened_losses_are_cross_entropies_against_shares():
    rng = np.random.default_rng(1)
    logits = paddle.to_tensor(rng.normal(size=(4, 20)).astype(np.float32))
    labels, digit_ids, soft = paddle.to_tensor([3, 7, 9, 12]), list(range(5, 15)), [1, 3]
    shares = rng.dirichlet(np.ones(10), size=2).astype(np.float32)
    shifts = np.eye(10, dtype=np.float32)[[2, 7]] - shares
    losses = F.cross_entropy(logits, labels, reduction="none").reshape([-1])
    softened = soften(losses, logits, digit_ids, paddle.to_tensor(soft), paddle.to_tensor(shifts)).numpy()
    whole = np.zeros((2, 20), np.float32)
    whole[:, 5:15] = shares
    expected = F.cross_entropy(logits[soft], paddle.to_tensor(whole), soft_label=True, reduction="none").numpy()
    np.testing.assert_allclose(softened[soft], expected.reshape(-1), rtol=1e-5)
    np.testing.assert_array_equal(softened[[0, 2]], losses.numpy()[[0, 2]])


@pytest.mark.parametrize("other", [(0.1, 0.1, 0.4, 0.3), (0.2, 0.1, 0.5, 0.4), (0.1, 0.2, 0.3, 0.9)])
def test_generalized_iou_of_boxes_that_meet_is_their_iou_less_what_is_empty_around_them(other):
    box = (0.1, 0.1, 0.4, 0.3)
    value = float(generalized_iou(paddle.to_tensor([box]), paddle.to_tensor([other])))
    area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    overlap = iou(box, other)
    either = sum(area) / (1 + overlap)
    low, high = np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])
    around = float(np.prod(high - low))
    assert value == pytest.approx(overlap - (around - either) / around, abs=1e-5)


def test_generalized_iou_of_boxes_apart_is_below_zero_and_its_gradient_brings_them_nearer():
    box = paddle.to_tensor([(0.1, 0.1, 0.2, 0.2)], stop_gradient=False)
    value = generalized_iou(box, paddle.to_tensor([(0.7, 0.1, 0.8, 0.2)]))
    value.sum().backward()
    assert float(value) == pytest.approx(-5 / 7, abs=1e-5)
    assert float(box.grad[0, 2]) > 0
