"""Training samples say the same as the scene they are drawn from, in the tokens that the chat sends."""

import numpy as np
import pytest

from paddlemix.chat.template import render_chatml
from paddlemix.finetune.packing import IGNORED_LABEL
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.zoo import DEFAULT_MODEL_DIR
from paddlemix.zoo.scenes.lexicon import COLOURS
from paddlemix.zoo.scenes.scene import generate_scene
from paddlemix.zoo.scenes.tasks import Conversation, coordinates, make_conversations
from paddlemix.zoo.training.dataset import (
    LAST_DIGIT_WEIGHT,
    NONE,
    ConversationEncoder,
    SceneCollator,
    SceneDataset,
    head_targets,
)


@pytest.fixture(scope="module")
def tokenizer() -> QWenVLTokenizer:
    return QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)


def dataset(tokenizer: QWenVLTokenizer, conversations: int) -> SceneDataset:
    return SceneDataset(tokenizer, conversations, 100, image_size=168, grid=6, patch_grid=12)


def test_a_branch_behind_the_shared_part_is_the_chat_prompt_with_its_answer(tokenizer):
    encoder = ConversationEncoder(tokenizer)
    scene = generate_scene(5)
    for conversation in make_conversations(scene, np.random.default_rng(5), 8):
        messages = []
        for turn, (question, answer) in enumerate(conversation.turns):
            picture = [{"type": "image", "image": scene.pil()}] if turn == 0 else []
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": answer})
        prompt = render_chatml(tokenizer, messages[:-1]).input_ids
        learnt = tokenizer(conversation.turns[-1][1]).input_ids + [tokenizer.im_end_id]
        assert encoder.with_picture.ids + encoder.branch(conversation).ids == list(prompt) + learnt


def test_only_answers_and_their_ends_are_learnt(tokenizer):
    span = ConversationEncoder(tokenizer).branch(Conversation("what", "en", (("What is this?", "This is a bus."),)))
    learnt = [token for token, weight in zip(span.ids, span.weights) if weight]
    assert tokenizer.decode(learnt) == "This is a bus.<|im_end|>"


def test_last_digits_of_coordinates_count_for_less(tokenizer):
    answer = "<ref>bus</ref><box>(7,80),(803,894)</box>"
    span = ConversationEncoder(tokenizer).branch(Conversation("refer", "en", (("Find the bus.", answer),)))
    light = [tokenizer.decode([token]) for token, weight in zip(span.ids, span.weights) if weight == LAST_DIGIT_WEIGHT]
    assert light == ["7", "0", "3", "4"]


def test_head_targets_stand_where_the_objects_are():
    scene = generate_scene(11, num_objects=4, sign=True)
    targets = head_targets(scene, grid=6, patch_grid=12)
    assert (targets.kinds != NONE).sum() == 4
    for placed in scene.objects:
        x, y = placed.centre
        cell = int(y * 6) * 6 + int(x * 6)
        assert targets.kinds[cell] == placed.kind
        assert targets.colours[cell] == (len(COLOURS) if placed.colour is None else placed.colour)
        np.testing.assert_allclose(targets.boxes[cell], placed.box, atol=1e-6)
        hundreds_and_tens = [[value // 100, value // 10 % 10] for value in coordinates(placed.box)]
        assert targets.digits[cell].reshape(4, 2).tolist() == hundreds_and_tens
        assert targets.patches.reshape(12, 12)[int(y * 12), int(x * 12)] > 0
    assert (targets.words != NONE).sum() == 1


def test_samples_depend_on_their_index_alone(tokenizer):
    first, second = dataset(tokenizer, 3)[8], dataset(tokenizer, 3)[8]
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(first["row"].input_ids, second["row"].input_ids)


def test_every_second_picture_has_a_row_and_now_and_then_one_has_no_picture(tokenizer):
    samples = [dataset(tokenizer, 3)[index] for index in range(4)]  # index 0 brings a row without picture
    batch = SceneCollator(QwenVLImageProcessor(image_size=168), tokenizer.eod_id)(samples)
    assert batch["images"].shape == (4, 3, 168, 168)
    assert batch["images"].dtype == np.float32
    assert batch["described"].tolist() == [0, 2]
    assert (batch["input_ids"] == tokenizer.img_start_id).sum(axis=1).tolist() == [1, 1, 0]
    assert (batch["labels"] != IGNORED_LABEL).all()
    assert len(batch["sources"]) == len(batch["labels"]) == len(batch["label_weights"])


def test_the_vision_stage_has_pictures_and_head_targets_only(tokenizer):
    samples = [dataset(tokenizer, 0)[index] for index in range(2)]
    batch = SceneCollator(QwenVLImageProcessor(image_size=168), tokenizer.eod_id)(samples)
    assert "input_ids" not in batch
    assert batch["kinds"].shape == (2, 36)
