from __future__ import annotations

import re

import numpy as np
import pytest

from examples.bundled_model.scenes import tasks
from examples.bundled_model.scenes.lexicon import COLORS, KINDS
from examples.bundled_model.scenes.phrases import QUESTIONS
from examples.bundled_model.scenes.scene import PlacedObject, Scene, Sign, generate_scene
from examples.bundled_model.scenes.scoring import names_in


def place(kind: str, box, color=None) -> PlacedObject:
    index = next(i for i, k in enumerate(KINDS) if k.en == kind)
    return PlacedObject(index, box, color, "noto", 0.0, False)


@pytest.fixture
def scene() -> Scene:
    objects = (place("cup", (0.6, 0.1, 0.9, 0.35), color=0), place("bus", (0.178, 0.28, 0.503, 0.894)))
    return Scene(0, np.zeros((32, 32, 3), np.uint8), objects, Sign("STOP", (0.1, 0.0, 0.4, 0.15)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_captions_are_in_the_form_of_the_original_and_go_from_left_to_right(scene):
    assert tasks.caption_answer(scene, "en") == (
        "<ref>a bus</ref><box>(178,280),(503,894)</box>, <ref>a cup</ref><box>(600,100),(900,350)</box>"
    )
    assert tasks.caption_answer(scene, "zh") == (
        "<ref>公交车</ref><box>(178,280),(503,894)</box>、<ref>杯子</ref><box>(600,100),(900,350)</box>"
    )
    assert QUESTIONS["caption"]["en"][0] == "Generate the caption in English with grounding:"


def test_the_other_answers_say_what_is_in_the_scene(scene, rng):
    def answers(task, language):
        return {tasks.TASKS[task](scene, language, rng).turns[-1][1] for _ in range(40)}

    assert answers("what", "en") == {"These are a bus and a cup."}
    assert answers("what", "zh") == {"这是公交车和杯子。"}
    assert answers("describe", "en") == {"The picture shows a bus and a cup."}
    assert answers("count", "en") == {"There are 2 objects."}
    assert answers("color", "en") == {f"The cup is {COLORS[0].en}."}
    assert answers("color", "zh") == {"杯子是红色的。"}
    assert answers("relation", "en") == {"The bus is to the left of the cup.", "The cup is to the right of the bus."}
    assert answers("relation", "zh") == {"公交车在杯子的左边。", "杯子在公交车的右边。"}
    assert answers("word", "zh") == {"STOP"}
    assert answers("refer", "zh") == {
        "<ref>公交车</ref><box>(178,280),(503,894)</box>",
        "<ref>杯子</ref><box>(600,100),(900,350)</box>",
    }


def test_of_what_is_not_there_the_answer_says_so(scene, rng):
    for _ in range(40):
        for language, form in (("en", r"There is no (\w+) in the image\."), ("zh", r"图中没有(\w+)。")):
            conversation = tasks.absent(scene, language, rng)
            ((question, answer),) = conversation.turns
            (name,) = re.fullmatch(form, answer).groups()
            assert name in question and conversation.subject is None
            assert names_in(answer)[0] not in ("cup", "bus")


def test_english_names_get_the_right_article():
    assert tasks.listing([3, 0, 12], "en") == "an airplane, a bus and an apple"
    assert tasks.listing([3, 0, 12], "zh") == "飞机、公交车和苹果"
    assert tasks.listing([0], "en") == "a bus"


def test_coordinates_stay_below_a_thousand():
    assert tasks.coordinates((0.0, 0.9996, 0.12345, 1.0)) == (0, 999, 123, 999)


def test_questions_without_a_single_answer_are_not_asked(rng):
    twins = (place("dog", (0.1, 0.1, 0.3, 0.3), 1), place("dog", (0.5, 0.5, 0.8, 0.8), 2))
    scene = Scene(0, np.zeros((32, 32, 3), np.uint8), twins, None)
    for task in ("refer", "color", "relation", "word"):
        assert tasks.TASKS[task](scene, "en", rng) is None
    counted = {tasks.count_kind(scene, "en", rng).turns[0][1] for _ in range(60)}
    assert "There are 2 dogs." in counted
    assert counted - {"There are 2 dogs."} <= {f"There are 0 {kind.plural}." for kind in KINDS}


def test_relations_are_asked_only_of_objects_clearly_apart(rng):
    above = (place("dog", (0.1, 0.1, 0.3, 0.3)), place("cat", (0.12, 0.5, 0.32, 0.8)))
    assert tasks.relation(Scene(0, np.zeros((32, 32, 3), np.uint8), above, None), "en", rng) is None


def test_conversations_about_a_scene_are_many_different_and_deterministic():
    seen, languages = set(), set()
    for seed in range(120):
        scene = generate_scene(2**37 + seed, size=32)
        made = tasks.make_conversations(scene, np.random.default_rng(seed), 5)
        assert made == tasks.make_conversations(scene, np.random.default_rng(seed), 5)
        assert len(made) == 5
        seen |= {conversation.task for conversation in made}
        languages |= {conversation.language for conversation in made}
        for conversation in made:
            assert len(conversation.turns) == {"followup": 2, "dialogue": 3}.get(conversation.task, 1)
            assert all(question and answer and "{" not in question + answer for question, answer in conversation.turns)
    assert seen == set(tasks.TASKS) and languages == {"en", "zh"}


def test_it_is_the_thing_that_the_turn_before_was_about():
    rng = np.random.default_rng(3)
    seen = set()
    for seed in range(2**37, 2**37 + 150):
        scene = generate_scene(seed, size=32)
        for task in (tasks.where_is_it, tasks.what_color_is_it):
            conversation = task(scene, "en", rng)
            if conversation is None:
                continue
            (_, before), (question, answer) = conversation.turns
            placed = next(placed for placed in scene.unique() if placed.kind == conversation.subject)
            assert names_in(before)[0] == KINDS[placed.kind].en and " it" in question
            if task is tasks.where_is_it:
                assert "box" not in before and answer == tasks.grounded(placed, "en")
            else:
                assert answer == f"It is {COLORS[placed.color].en}."
            seen.add((task, len(scene.objects)))
    assert seen == {(task, n) for task in (tasks.where_is_it, tasks.what_color_is_it) for n in range(1, 6)}


def test_the_turns_of_a_dialogue_do_not_repeat_themselves():
    rng = np.random.default_rng(4)
    for seed in range(2**37, 2**37 + 60):
        conversation = tasks.dialogue(generate_scene(seed, size=32), "zh", rng)
        if conversation is not None:
            answers = [answer for _, answer in conversation.turns]
            assert len(answers) == 3 and answers[0] != answers[1] != answers[2]


def test_things_that_training_never_shows_are_named_in_answers(rng):
    scene = generate_scene(8, size=32, kinds=("robot", "penguin"), num_objects=2)
    assert {"robot", "penguin"} == set(names_in(tasks.what_answer(scene, "en")))
    assert {"robot", "penguin"} == set(names_in(tasks.caption_answer(scene, "zh")))
    assert tasks.refer(scene, "zh", rng).turns[0][1].startswith(("<ref>机器人</ref>", "<ref>企鹅</ref>"))


def test_many_conversations_can_be_had_of_the_emptiest_scene():
    scene = generate_scene(2**37, size=32, num_objects=1, sign=False)
    assert len(tasks.make_conversations(scene, np.random.default_rng(0), 40)) == 40


def test_without_an_image_no_box_and_no_color_is_claimed():
    rng = np.random.default_rng(1)
    for _ in range(200):
        conversation = tasks.make_text_conversation(rng)
        ((question, answer),) = conversation.turns
        assert conversation.task == "text" and "{" not in question
        assert not re.search(r"<box>|\d", answer)


def test_small_liberties_leave_the_words_of_a_question_alone():
    rng = np.random.default_rng(2)
    forms = {tasks.vary("What is this?", rng) for _ in range(200)}
    assert forms == {"What is this?", "What is this", "what is this?"}
    forms = {tasks.vary("这是什么？", rng) for _ in range(200)}
    assert forms == {"这是什么？", "这是什么?", "这是什么"}
