from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from examples.bundled_model.scenes import pairs
from examples.bundled_model.scenes.lexicon import KIND_INDEX, KINDS
from examples.bundled_model.scenes.phrases import QUESTIONS
from examples.bundled_model.scenes.scene import PlacedObject, Scene, generate_scene
from examples.bundled_model.scenes.scoring import names_in

SEEDS = range(2**37, 2**37 + 200)


def scene(*kinds: str) -> Scene:
    placed = [
        PlacedObject(KIND_INDEX[kind], (0.2 * i, 0.1, 0.2 * i + 0.15, 0.3), None, "noto", 0.0, False)
        for i, kind in enumerate(kinds)
    ]
    return Scene(0, np.zeros((4, 4, 3), np.uint8), tuple(placed), None)


def answers(task, first: Scene, second: Scene, language: str = "en") -> dict[str, str]:
    """Question -> answer of what a task asks about two scenes, over many draws."""
    rng = np.random.default_rng(0)
    turns = [task(first, second, language, rng).turns[0] for _ in range(80)]
    assert len({question for question, _ in turns}) > 1
    return dict(turns)


def test_a_pair_is_the_scene_of_its_seed_and_another():
    first, second = pairs.generate_pair(9, size=64)
    again = pairs.generate_pair(9, size=64)
    np.testing.assert_array_equal(first.image, generate_scene(9, size=64).image)
    np.testing.assert_array_equal(second.image, again[1].image)
    assert second.seed >= pairs.PARTNER_SEED and first.objects != second.objects


def test_two_of_three_pairs_share_a_kind():
    shared = 0
    for seed in SEEDS:
        first, second = pairs.generate_pair(seed, size=32)
        shared += bool({placed.kind for placed in first.objects} & {placed.kind for placed in second.objects})
    assert 0.55 < shared / len(SEEDS) < 0.85


def test_more_is_asked_of_different_numbers_only():
    assert set(answers(pairs.more, scene("dog"), scene("cat", "cup")).values()) == {"Picture 2."}
    assert set(answers(pairs.more, scene("dog", "dog"), scene("cat"), "zh").values()) == {"图1。"}
    assert pairs.more(scene("dog"), scene("cat"), "en", np.random.default_rng(0)) is None


def test_which_image_shows_a_kind_has_all_four_answers():
    found = answers(pairs.which, scene("dog", "apple"), scene("dog", "cup"))
    for question, answer in found.items():
        (kind,) = names_in(question)
        expected = {"dog": "Both pictures.", "apple": "Picture 1.", "cup": "Picture 2."}.get(kind, "Neither picture.")
        assert answer == expected
    assert len(set(found.values())) == 4
    assert any("an apple" in question for question in found) and not any("a apple" in question for question in found)


def test_what_is_in_both_is_named_once_or_nothing():
    assert set(answers(pairs.both, scene("dog", "cup", "dog"), scene("cup", "dog")).values()) == {
        "Both pictures show a dog and a cup."
    }
    assert set(answers(pairs.both, scene("dog"), scene("cup"), "zh").values()) == {"没有。"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_one_of_the_images_is_asked_for_by_its_number(language):
    first, second = scene("dog"), scene("cat", "cup")
    for question, answer in answers(pairs.what, first, second, language).items():
        is_first = any(form in question for form in ("1", "first", "一"))
        assert names_in(answer) == (["dog"] if is_first else ["cat", "cup"])
        assert ("1" if is_first else "2") in answer
    for question, answer in answers(pairs.count, first, second, language).items():
        is_first = any(form in question for form in ("1", "first", "一"))
        assert ("1" if is_first else "2") in answer


def test_answers_are_about_equally_frequent():
    rng = np.random.default_rng(1)
    which, more = Counter(), Counter()
    for seed in SEEDS:
        first, second = pairs.generate_pair(seed, size=32)
        which[pairs.which(first, second, "en", rng).turns[0][1]] += 1
        if len(first.objects) != len(second.objects):
            more[pairs.more(first, second, "en", rng).turns[0][1]] += 1
    assert len(which) == 4 and min(which.values()) > 0.14 * len(SEEDS)
    assert len(more) == 2 and min(more.values()) > 0.38 * sum(more.values())


def test_every_question_is_drawn_and_complete():
    rng = np.random.default_rng(2)
    made = []
    for seed in SEEDS:
        conversation = pairs.pair(*pairs.generate_pair(seed, size=32), "zh" if seed % 2 else "en", rng)
        made += [] if conversation is None else [conversation]
    assert len(made) > 0.85 * len(SEEDS) and {conversation.task for conversation in made} == {"pair"}
    for conversation in made:
        ((question, answer),) = conversation.turns
        assert question and answer and "{" not in question + answer
    asked = [conversation.turns[0][0] for conversation in made]
    for task in ("pair_more", "pair_which", "pair_both", "pair_what", "pair_count"):
        for wording in (text for texts in QUESTIONS[task].values() for text in texts):
            form = re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(wording.rstrip("?？"))), re.IGNORECASE)
            assert any(map(form.match, asked)), wording
    shown = {name for conversation in made for name in names_in(conversation.turns[0][1])}
    assert shown <= {kind.en for kind in KINDS}
