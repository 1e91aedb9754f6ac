"""Training samples say the same as the scene they are drawn from, in the tokens that the chat sends."""

import numpy as np
import pytest

from examples.bundled_model.scenes.lexicon import COLORS, KINDS, WORDS
from examples.bundled_model.scenes.pairs import generate_pair
from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.scenes.tasks import Conversation, absent, coordinates, grounded, make_conversations
from examples.bundled_model.scenes.vocabulary import object_token_ids
from examples.bundled_model.training.dataset import SceneCollator, SceneDataset, head_targets, pair_conversations
from examples.bundled_model.training.encoding import (
    DECISIVE_WEIGHT,
    FIRST_WEIGHT,
    LAST_DIGIT_WEIGHT,
    NOTHING,
    WORD_WEIGHT,
    ConversationEncoder,
    cell,
    view,
)
from examples.bundled_model.training.packing import IGNORE_INDEX
from paddlemix.models.qwen_vl.chat_template import render_chatml
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.zoo import DEFAULT_MODEL_DIR

GRID = 6


@pytest.fixture(scope="module")
def tokenizer() -> QWenVLTokenizer:
    return QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)


def dataset(tokenizer: QWenVLTokenizer, conversations: int) -> SceneDataset:
    return SceneDataset(tokenizer, conversations, image_size=168, grid=GRID, patch_grid=12)


def branch_of(tokenizer: QWenVLTokenizer, *turns: tuple[str, str], scenes=()):
    return ConversationEncoder(tokenizer).branch(Conversation("any", "en", turns), view(scenes, GRID))


def weights_of(tokenizer: QWenVLTokenizer, span, weight: float) -> list[str]:
    return [tokenizer.decode([token]) for token, own in zip(span.ids, span.weights) if own == weight]


def chat_prompt(tokenizer: QWenVLTokenizer, conversation: Conversation, scenes) -> list[int]:
    """What the chat sends before the last answer, and the answer with its end."""
    messages = []
    for turn, (question, answer) in enumerate(conversation.turns):
        images = [{"type": "image", "image": scene.pil()} for scene in scenes] if turn == 0 else []
        messages.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": answer})
    prompt = render_chatml(tokenizer, messages[:-1]).input_ids
    return list(prompt) + tokenizer(conversation.turns[-1][1]).input_ids + [tokenizer.im_end_id]


def test_a_branch_behind_the_shared_part_is_the_chat_prompt_with_its_answer(tokenizer):
    encoder = ConversationEncoder(tokenizer)
    scene = generate_scene(5)
    for conversation in make_conversations(scene, np.random.default_rng(5), 8):
        ids = encoder.shared(1).ids + encoder.branch(conversation, view([scene], GRID)).span.ids
        assert ids == chat_prompt(tokenizer, conversation, [scene])


def test_two_images_stand_in_the_row_as_the_chat_shows_them(tokenizer):
    encoder = ConversationEncoder(tokenizer)
    scenes = generate_pair(6)
    for conversation in pair_conversations(*scenes, np.random.default_rng(6), 4):
        ids = encoder.shared(2).ids + encoder.branch(conversation, view(scenes, GRID)).span.ids
        assert ids == chat_prompt(tokenizer, conversation, scenes)


def test_only_answers_and_their_ends_are_learned(tokenizer):
    span = branch_of(tokenizer, ("What is this?", "This is a bus.")).span
    learned = [token for token, weight in zip(span.ids, span.weights) if weight]
    assert tokenizer.decode(learned) == "This is a bus.<|im_end|>"


def test_last_digits_of_coordinates_count_for_less(tokenizer):
    answer = "<ref>bus</ref><box>(7,80),(803,894)</box>"
    span = branch_of(tokenizer, ("Find the bus.", answer)).span
    assert weights_of(tokenizer, span, LAST_DIGIT_WEIGHT) == ["7", "0", "3", "4"]


def test_the_token_that_decides_an_answer_counts_for_more(tokenizer):
    span = branch_of(
        tokenizer,
        ("What colour is the cup?", "The cup is red."),
        ("How many objects are there?", "There are 3 objects."),
        ("Is the cup left or right of the bus?", "The cup is to the left of the bus."),
    ).span
    assert weights_of(tokenizer, span, DECISIVE_WEIGHT) == [" red", "3", " left"]
    span = branch_of(tokenizer, ("What does the sign say?", "MARKET")).span
    assert weights_of(tokenizer, span, WORD_WEIGHT) == ["MARKET"]
    span = branch_of(tokenizer, ("Find the bus.", "There is no bus in the image.")).span
    assert weights_of(tokenizer, span, DECISIVE_WEIGHT) == [" no"]
    assert weights_of(tokenizer, span, FIRST_WEIGHT) == ["There"]


def scene_with(**wanted):
    """The first scene whose objects are all of different kinds."""
    scenes = (generate_scene(seed, **wanted) for seed in range(1000))
    return next(scene for scene in scenes if len(scene.unique()) == len(scene.objects))


def test_a_name_points_to_its_object_and_what_is_said_of_it_too(tokenizer):
    scene = scene_with(num_objects=3)
    first, second = scene.objects[:2]
    tag, name = grounded(first, "en"), KINDS[second.kind].en
    branch = branch_of(
        tokenizer, (f"Where is the {KINDS[first.kind].en}?", tag), ("And?", f"The {name} is red."), scenes=[scene]
    )
    queries = [(cell(placed.box, GRID),) for placed in (first, second)]
    assert about(tokenizer, branch, queries[0]) == f" {KINDS[first.kind].en}{tag}"
    assert about(tokenizer, branch, queries[1]) == f" {name} red"
    assert sum(branch.named) == 3


def about(tokenizer: QWenVLTokenizer, branch, queries: tuple[int, ...]) -> str:
    return tokenizer.decode([token for token, own in zip(branch.span.ids, branch.about) if own == queries])


def test_a_name_that_two_objects_share_points_to_both(tokenizer):
    scenes = (generate_scene(seed, num_objects=2) for seed in range(1000))
    scene = next(scene for scene in scenes if scene.objects[0].kind == scene.objects[1].kind)
    kind = KINDS[scene.objects[0].kind]
    both = tuple(cell(placed.box, GRID) for placed in scene.objects)
    branch = branch_of(tokenizer, (f"Where is the {kind.en}?", "There."), scenes=[scene])
    assert about(tokenizer, branch, both) == f" {kind.en}There"
    branch = branch_of(tokenizer, (f"有多少个{kind.zh}？", "图中有2个。"), scenes=[scene])
    assert about(tokenizer, branch, both) == f"{kind.zh}图中2"


def test_a_name_of_what_is_not_there_points_nowhere_and_nothing_that_is_said_of_it(tokenizer):
    scene = generate_scene(3)
    conversation = absent(scene, "en", np.random.default_rng(3))
    branch = ConversationEncoder(tokenizer).branch(conversation, view([scene], GRID))
    pointing = {query for queries in branch.about for query in queries}
    spoken_of = {
        cell(placed.box, GRID) for placed in scene.objects if KINDS[placed.kind].en in conversation.turns[0][0]
    }
    assert pointing <= spoken_of
    row = ConversationEncoder(tokenizer).row(1, [branch], 256, view([scene], GRID))
    assert sum(row.named) >= 2


def test_the_answer_which_picture_shows_a_thing_points_to_it_there(tokenizer):
    scenes = (generate_scene(1, kinds=("dog",), num_objects=1), generate_scene(2, kinds=("bus",), num_objects=1))
    (only,) = scenes[1].objects
    name = KINDS[only.kind].en
    branch = branch_of(tokenizer, (f"Which picture shows a {name}?", "Picture 2."), scenes=scenes)
    assert about(tokenizer, branch, (GRID * GRID + cell(only.box, GRID),)) == f" {name}Picture2"


def test_objects_of_the_second_picture_know_those_of_their_kind_in_the_first():
    scenes = next(pair for pair in map(generate_pair, range(100)) if view(pair, GRID).twins(GRID**2)[0][1])
    twins = dict(view(scenes, GRID).twins(GRID**2))
    assert len(twins) == len(scenes[1].objects)
    for placed in scenes[1].objects:
        same = [other for other in scenes[0].objects if other.kind == placed.kind]
        assert twins[GRID**2 + cell(placed.box, GRID)] == tuple(cell(other.box, GRID) for other in same)


def test_digits_of_coordinates_know_their_place(tokenizer):
    branch = branch_of(tokenizer, ("Find the bus.", "<ref>bus</ref><box>(7,80),(803,894)</box>"))
    codes = [code for code in branch.digits if code != NOTHING]
    assert codes == [7 * 3, 80 * 3, 80 * 3 + 1, *(803 * 3 + k for k in range(3)), *(894 * 3 + k for k in range(3))]
    assert set(branch_of(tokenizer, ("How many objects are there?", "There are 3 objects.")).digits) == {NOTHING}


def test_columns_of_a_row_are_the_slots_of_the_image_that_shows_the_object(tokenizer):
    scenes = generate_pair(6)
    encoder = ConversationEncoder(tokenizer)
    seen = view(scenes, GRID)
    branches = [encoder.branch(item, seen) for item in pair_conversations(*scenes, np.random.default_rng(6), 6)]
    row = encoder.row(2, branches, 400, seen)
    starts = np.flatnonzero(row.row.input_ids == tokenizer.img_start_id)
    assert row.slots.tolist() == [*range(starts[0] + 1, starts[0] + 37), *range(starts[1] + 1, starts[1] + 37)]
    queries = {query for found in seen.kinds.values() for query in found}
    pointed = {query for found in row.about for query in found}
    assert pointed and pointed <= queries


def test_head_targets_stand_where_the_objects_are():
    scene = generate_scene(11, num_objects=4, sign=True)
    targets = head_targets(scene, grid=6, patch_grid=12)
    assert (targets.kinds != NOTHING).sum() == 4
    for placed in scene.objects:
        x, y = placed.center
        cell = int(y * 6) * 6 + int(x * 6)
        assert targets.kinds[cell] == placed.kind
        assert targets.colors[cell] == (len(COLORS) if placed.color is None else placed.color)
        np.testing.assert_allclose(targets.boxes[cell], placed.box, atol=1e-6)
        tens = [value // 10 % 10 for value in coordinates(placed.box)]
        assert (targets.digits[cell].reshape(4, 2, 10)[range(4), 1, tens] > 0.3).all()
        np.testing.assert_allclose(targets.digits[cell].sum(axis=-1), 1, atol=1e-6)
        assert targets.patches.reshape(12, 12)[int(y * 12), int(x * 12)] > 0
    assert (targets.words != NOTHING).sum() == 1


def test_samples_depend_on_their_index_alone(tokenizer):
    first, second = dataset(tokenizer, 3).sample(6), dataset(tokenizer, 3)[[3, 6]][1]
    np.testing.assert_array_equal(first.images[0], second.images[0])
    np.testing.assert_array_equal(first.row.row.input_ids, second.row.row.input_ids)


def test_every_third_image_has_a_row_and_now_and_then_there_are_two_images_or_none(tokenizer):
    samples = dataset(tokenizer, 3)[range(4)]  # index 0 has two images, and brings a row without any
    batch = SceneCollator(QwenVLImageProcessor(image_size=168), tokenizer.eod_id)(samples)
    assert batch["images"].shape == (5, 3, 168, 168)
    assert batch["images"].dtype == np.float32
    assert batch["described"].tolist() == [0, 1, 4]
    assert (batch["input_ids"] == tokenizer.img_start_id).sum(axis=1).tolist() == [2, 1, 0]
    assert (batch["labels"] != IGNORE_INDEX).all()
    assert len(batch["sources"]) == len(batch["labels"]) == len(batch["label_weights"])


def test_pointers_of_a_batch_lead_from_a_name_to_a_slot_of_its_own_row(tokenizer):
    samples = dataset(tokenizer, 5)[range(12)]
    batch = SceneCollator(QwenVLImageProcessor(image_size=168), tokenizer.eod_id)(samples)
    rows, length = batch["input_ids"].shape
    ids = batch["input_ids"].reshape(-1)
    names = {token for ids in object_token_ids(tokenizer.mergeable_ranks) for token in ids}
    assert set(ids[batch["name_positions"]].tolist()) <= names
    for look in ("name", "read", "twin"):
        positions, columns, weights = (batch[f"{look}_{part}"] for part in ("positions", "columns", "weights"))
        target = positions // length * length + columns
        assert len(target) == len(weights)
        assert ((ids[target] == tokenizer.img_pad_id) | ((target == positions) & (look == "name"))).all()
    sums = np.bincount(batch["name_positions"], batch["name_weights"])
    np.testing.assert_allclose(sums[sums > 0], 1, atol=1e-6)
    sizes = batch["name_boxes"][:, 2:] - batch["name_boxes"][:, :2]
    assert (sizes > 0).all() and len(sizes) == len(batch["boxed_positions"])
    assert (ids[batch["numbered_positions"]] == tokenizer.img_pad_id).all()
    assert batch["numbers"].mean() == 0.5


def test_digits_of_a_batch_are_those_that_shares_are_given_for(tokenizer):
    batch = SceneCollator(QwenVLImageProcessor(image_size=168), tokenizer.eod_id)(dataset(tokenizer, 5)[range(6)])
    labels = [int(tokenizer.decode([token])) for token in batch["labels"][batch["soft_targets"]].tolist()]
    right = np.eye(10, dtype=bool)[labels]
    assert labels and (batch["digit_shifts"][right] >= 0).all() and (batch["digit_shifts"][~right] <= 0).all()
    np.testing.assert_allclose(batch["digit_shifts"].sum(axis=1), 0, atol=1e-6)


def test_the_vision_stage_has_images_and_head_targets_only(tokenizer):
    samples = dataset(tokenizer, 0)[range(2)]
    batch = SceneCollator(QwenVLImageProcessor(image_size=168), tokenizer.eod_id)(samples)
    assert "input_ids" not in batch
    assert batch["kinds"].shape == (2, 36)


def test_patches_of_a_sign_tell_its_word():
    scene = generate_scene(11, sign=True)
    targets = head_targets(scene, grid=GRID, patch_grid=12)
    told = set(targets.patch_words[targets.patch_words != NOTHING].tolist())
    assert told == {WORDS.index(scene.sign.word)}
