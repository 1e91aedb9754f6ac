from __future__ import annotations

import numpy as np
import pytest

from examples.bundled_model.scenes import scoring
from examples.bundled_model.scenes.lexicon import KIND_INDEX
from examples.bundled_model.scenes.scene import PlacedObject, Scene
from examples.bundled_model.scenes.scoring import Question


def question(expected="", subject=None, **objects) -> Question:
    placed = tuple(PlacedObject(KIND_INDEX[name], box, None, "noto", 0.0, False) for name, box in objects.items())
    scene = Scene(0, np.zeros((4, 4, 3), np.uint8), placed, None)
    return Question((scene,), "", expected, None if subject is None else KIND_INDEX[subject])


def test_names_are_found_in_both_languages_longest_first():
    assert scoring.names_in("a bus, two cats and the bicycle") == ["bus", "cat", "bicycle"]
    assert scoring.names_in("这是公交车、自行车、汽车和书。") == ["bus", "bicycle", "car", "book"]
    assert scoring.names_in("a category of buses") == ["bus"]


def test_intersection_over_union():
    assert scoring.iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert scoring.iou((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert scoring.iou((0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1)) == 0
    assert scoring.iou((0.9, 0.9, 0.1, 0.1), (0, 0, 1, 1)) == 0


def test_a_reference_counts_by_its_first_box():
    asked = question(subject="dog", dog=(0.1, 0.1, 0.3, 0.3), cup=(0.6, 0.6, 0.9, 0.9))
    right, wrong = "<box>(100,100),(300,290)</box>", "<box>(600,600),(900,900)</box>"
    assert scoring.score_refer(asked, f"<ref>dog</ref>{right}{wrong}")["2 objects"] == (1, 1)
    assert scoring.score_refer(asked, f"<ref>dog</ref>{wrong}{right}")["1–5 objects"] == (0, 1)
    assert scoring.score_refer(asked, "<box>(100,100),(300")["1–3 objects"] == (0, 1)


def test_how_well_the_box_fits_is_told_beside_whether_it_is_right():
    asked = question(subject="dog", dog=(0.1, 0.1, 0.3, 0.3))
    tallies = scoring.score_refer(asked, "<ref>dog</ref><box>(100,100),(300,260)</box>")
    assert tallies["mean IoU"] == (pytest.approx(0.8), 1)
    assert tallies["IoU ≥ 0.75"] == (1, 1) and tallies["IoU ≥ 0.85"] == (0, 1)
    assert tallies["answered with a box"] == (1, 1)
    refused = scoring.score_refer(asked, "There is no dog in the image.")
    assert refused["mean IoU"] == refused["answered with a box"] == (0, 1)


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ("There is no bus in the image.", 1),
        ("图中没有公交车。", 1),
        ("There is no dog in the image.", 0),
        ("<ref>bus</ref><box>(100,100),(300,260)</box>", 0),
        ("The bus is red.", 0),
    ],
)
def test_a_refusal_says_that_the_thing_asked_for_is_not_there(answer, points):
    asked = scoring.Question((), "Where is the bus?", "There is no bus in the image.")
    assert scoring.score_refusal(asked, answer) == {"right refusals": (points, 1)}


def test_a_caption_is_scored_by_name_and_by_place():
    asked = question(dog=(0.1, 0.1, 0.3, 0.3), cup=(0.6, 0.6, 0.9, 0.9))
    answer = (
        "<ref>a dog</ref><box>(100,100),(300,300)</box>, <ref>a cup</ref><box>(100,100),(300,300)</box>, "
        "<ref>a bus</ref><box>(600,600),(900,900)</box>"
    )
    assert scoring.score_caption(asked, answer) == {
        "recall, named": (2, 2),
        "precision, named": (2, 3),
        "recall, named and IoU ≥ 0.5": (1, 2),
        "precision, named and IoU ≥ 0.5": (1, 3),
    }


def test_an_object_named_twice_is_found_once():
    asked = question(dog=(0.1, 0.1, 0.3, 0.3))
    answer = "<ref>a dog</ref><box>(100,100),(300,300)</box>" * 2
    assert scoring.score_caption(asked, answer)["recall, named and IoU ≥ 0.5"] == (1, 1)
    assert scoring.score_caption(asked, answer)["precision, named and IoU ≥ 0.5"] == (1, 2)


def test_a_caption_without_a_whole_box_still_names():
    asked = question(dog=(0.1, 0.1, 0.3, 0.3))
    tallies = scoring.score_caption(asked, "<ref>a dog</ref><box>(100,1")
    assert tallies["recall, named"] == (1, 1) and tallies["recall, named and IoU ≥ 0.5"] == (0, 1)


@pytest.mark.parametrize(
    ("score", "expected", "right", "wrong"),
    [
        (scoring.score_what_one, "This is a bus.", "A bus!", "This is a bus and a car."),
        (scoring.score_count, "There are 3 objects.", "3", "There are 2 objects."),
        (scoring.score_count, "图中有3个物体。", "3个", "三个"),
        (scoring.score_color, "The cup is red.", "red", "red or blue"),
        (scoring.score_color, "杯子是红色的。", "红色", "蓝色"),
        (scoring.score_relation, "The cup is to the left of the bus.", "left", "left or right"),
        (scoring.score_relation, "杯子在球的左边。", "在左边", "在右边"),
        (scoring.score_word, "STOP", "STOP.", "SHOP"),
        (scoring.score_word, "停车", "停车", "出口"),
        (scoring.score_choice, "Picture 1.", "picture 1", "Picture 2."),
        (scoring.score_choice, "Picture 2.", "The second picture.", "Picture 1 or 2"),
        (scoring.score_choice, "Both pictures.", "Both.", "Neither picture."),
        (scoring.score_choice, "图2。", "第二张图片。", "图1。"),
        (scoring.score_choice, "两张图片都有。", "都有", "两张图片都没有。"),
        (scoring.score_shared, "Both pictures show a dog and a cup.", "A cup and a dog.", "A dog."),
        (scoring.score_shared, "Nothing.", "nothing", "A dog."),
        (scoring.score_shared, "没有。", "没有", "两张图片里都有狗。"),
        (scoring.score_what_one, "This is a robot.", "a robot", "a bus"),
    ],
)
def test_answers_count_by_what_they_say(score, expected, right, wrong):
    assert score(question(expected), right)["accuracy"] == (1, 1)
    assert score(question(expected), wrong)["accuracy"] == (0, 1)


def test_lists_are_scored_by_recall_and_precision():
    asked = question("These are a dog, a dog and a cup.")
    assert scoring.score_what_list(asked, "These are a dog and a bus.") == {
        "recall": (1, 3),
        "precision": (1, 2),
        "all right": (0, 1),
    }
