from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from examples.bundled_model.scenes.lexicon import ALL_STYLES, KIND_INDEX, KINDS, NEW_KINDS, STYLES, WORDS
from examples.bundled_model.scenes.scene import GRID, MAX_OBJECTS, MAX_SIGN_WIDTH, SIDE_RANGE, generate_scene
from examples.bundled_model.scenes.scoring import iou
from paddlemix.errors import ConfigurationError

SEEDS = range(2**35, 2**35 + 200)


@pytest.fixture(scope="module")
def scenes():
    return [generate_scene(seed, size=64) for seed in SEEDS]


def test_the_same_seed_draws_the_same_scene():
    first, again, other = generate_scene(5), generate_scene(5), generate_scene(6)
    assert first.objects == again.objects and first.sign == again.sign
    np.testing.assert_array_equal(first.image, again.image)
    assert first.objects != other.objects


def test_the_size_changes_how_finely_a_scene_is_drawn_but_not_its_layout():
    small, large = generate_scene(11, size=168), generate_scene(11, size=504)
    assert small.objects == large.objects and small.sign == large.sign
    assert large.image.shape == (504, 504, 3) and large.image.dtype == np.uint8
    reduced = large.image.reshape(168, 3, 168, 3, 3).mean((1, 3))
    assert np.abs(reduced - small.image).mean() < 8


def test_objects_lie_inside_and_have_the_promised_sizes(scenes):
    for scene in scenes:
        for placed in scene.objects:
            x1, y1, x2, y2 = placed.box
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            assert SIDE_RANGE[0] - 1e-6 <= max(x2 - x1, y2 - y1) <= SIDE_RANGE[1] + 1e-6


def test_objects_keep_apart(scenes):
    for scene in scenes:
        cells = [(int(GRID * x), int(GRID * y)) for x, y in (placed.center for placed in scene.objects)]
        assert len(set(cells)) == len(cells)
        for a, b in combinations(scene.objects, 2):
            assert iou(a.box, b.box) < 0.15
        for placed in scene.objects:
            if scene.sign is not None:
                assert iou(placed.box, scene.sign.box) < 0.03


def test_all_numbers_of_objects_signs_tints_and_repetitions_occur(scenes):
    counts = np.bincount([len(scene.objects) for scene in scenes], minlength=MAX_OBJECTS + 1)
    assert counts[0] == 0 and (counts[1:] >= 20).all()
    assert 30 <= sum(scene.sign is not None for scene in scenes) <= 70
    objects = [placed for scene in scenes for placed in scene.objects]
    assert 0.4 < np.mean([placed.color is not None for placed in objects]) < 0.6
    assert {placed.style for placed in objects} == set(STYLES)
    assert {placed.kind for placed in objects} == set(range(len(KINDS)))
    assert 5 <= sum(len(scene.unique()) < len(scene.objects) for scene in scenes) <= 50
    assert all(scene.sign.word in WORDS for scene in scenes if scene.sign)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_boxes_are_tight_around_what_is_drawn(style):
    """What the object changes in the image lies inside its box, and reaches the edges of it."""
    for seed in range(2**36, 2**36 + 12):
        scene = generate_scene(seed, size=336, num_objects=1, style=style, sign=False)
        empty = _background_of(seed, 336)
        changed = np.abs(scene.image.astype(np.int16) - empty).max(-1) > 12
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 336
        assert iou(tuple(drawn), scene.objects[0].box) > 0.9


def _background_of(seed: int, size: int) -> np.ndarray:
    from examples.bundled_model.scenes import backgrounds

    rng = np.random.default_rng([seed, 1])
    return backgrounds.finish(backgrounds.draw(rng, size), rng).astype(np.int16)


def test_a_scene_can_be_asked_for_by_its_contents():
    scene = generate_scene(3, kinds=("bus", "dog"), num_objects=3, style="twemoji", sign=True, size=64)
    kinds = [placed.kind for placed in scene.objects]
    assert {KIND_INDEX["bus"], KIND_INDEX["dog"]} <= set(kinds) and len(kinds) == 3
    assert {placed.style for placed in scene.objects} == {"twemoji"}
    assert scene.sign is not None


@pytest.mark.parametrize("kind", [kind.en for kind in NEW_KINDS])
def test_a_kind_that_training_never_shows_is_drawn_where_it_is_named(kind):
    scene = generate_scene(4, kinds=(kind,), num_objects=2, size=64)
    assert KIND_INDEX[kind] in [placed.kind for placed in scene.objects]
    assert KIND_INDEX[kind] >= len(KINDS)


def test_signs_are_high_enough_to_read_and_leave_room():
    signs = [generate_scene(seed, size=32, sign=True).sign for seed in range(2**35, 2**35 + 300)]
    assert {sign.word for sign in signs} == set(WORDS)
    for sign in signs:
        x1, y1, x2, y2 = sign.box
        assert x1 >= 0 and x2 <= 1 and y1 >= 0 and y2 <= 1
        assert y2 - y1 >= 0.115 and x2 - x1 <= MAX_SIGN_WIDTH + 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_objects": 0}, "num_objects is 0"),
        ({"num_objects": 6}, "num_objects is 6"),
        ({"style": "oil"}, "style is 'oil'; known styles: noto"),
        ({"kinds": ("unicorn",)}, "kinds has 'unicorn'"),
        ({"kinds": ("bus",) * 6}, "kinds has 6 names"),
        ({"size": 8}, "size is 8"),
    ],
)
def test_impossible_wishes_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        generate_scene(0, **arguments)
