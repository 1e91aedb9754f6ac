"""Boxes are found at IoU 0.5, by label where there is one; other answers must say the same."""

import pytest

from paddlemix.finetune.monitoring.scoring import Score, boxes_found, score
from paddlemix.models.qwen_vl.grounding import Box


def box(x1, y1, x2, y2, label=None):
    return Box(label, x1, y1, x2, y2)


def test_an_answered_box_counts_for_one_expected_box_only():
    assert boxes_found([box(0, 0, 10, 10), box(0, 0, 10, 9)], [box(0, 0, 10, 10)]) == 1


def test_the_nearest_pair_is_made_first():
    expected = [box(0, 0, 10, 10), box(0, 3, 10, 13)]
    answered = [box(0, 2, 10, 12), box(0, 0, 10, 8)]
    assert boxes_found(expected, answered) == 2


def test_labels_decide_where_both_have_one():
    place = (100, 100, 300, 300)
    assert boxes_found([box(*place, "the bus")], [box(*place, "The Bus")]) == 1
    assert boxes_found([box(*place, "the bus")], [box(*place, "the dog")]) == 0
    assert boxes_found([box(*place, "the bus")], [box(*place)]) == 1
    assert boxes_found([box(*place)], [box(*place, "the dog")]) == 1


def test_two_boxes_whose_labels_were_swapped_are_not_found():
    left, right = (0, 0, 100, 100), (500, 0, 600, 100)
    expected = [box(*left, "a cat"), box(*right, "a dog")]
    assert boxes_found(expected, [box(*left, "a dog"), box(*right, "a cat")]) == 0


BUS = "<ref>bus</ref><box>(100,100),(300,300)</box>"


@pytest.mark.parametrize(
    ("expected", "answer", "result"),
    [
        (BUS, BUS, Score(boxes=1, found=1)),
        (BUS, "Here it is: <box>(110,100),(300,290)</box>", Score(boxes=1, found=1)),
        (BUS, "<ref>bus</ref><box>(500,500),(700,700)</box>", Score(boxes=1, found=0)),
        (BUS, "There is no bus.", Score(boxes=1, found=0)),
        (BUS, "", Score(boxes=1, found=0)),
        ("There are 2 cats.", " There are 2 cats.\n", Score(plain=1, exact=1)),
        ("There are 2 cats.", "There are 2 <ref>cats</ref>.", Score(plain=1, exact=1)),
        ("There are 2 cats.", "There are 3 cats.", Score(plain=1, exact=0)),
    ],
)
def test_score_of_an_answer(expected, answer, result):
    assert score(expected, answer) == result


def test_scores_add_up():
    assert sum([Score(2, 1), Score(plain=1, exact=1), Score(1, 1)], Score()) == Score(3, 2, 1, 1)
