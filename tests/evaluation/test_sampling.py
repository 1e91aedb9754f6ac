from __future__ import annotations

import pytest

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.records import Question
from paddlemix.evaluation.sampling import Shots, sample


def question(number: int, group: str = "") -> Question:
    return Question(str(number), "test", "test", ("?",), group=group)


def test_a_sample_depends_on_ids_alone_and_grows_with_its_limit() -> None:
    questions = [question(number) for number in range(100)]
    chosen = {q.id for q in sample(questions, 20, seed=3)}
    assert len(chosen) == 20
    assert {q.id for q in sample(questions[::-1], 20, seed=3)} == chosen
    assert chosen < {q.id for q in sample(questions, 40, seed=3)}
    assert chosen != {q.id for q in sample(questions, 20, seed=4)}
    assert [q.id for q in sample(questions, 500)] == [q.id for q in questions]


def test_a_sample_keeps_groups_whole_and_the_order() -> None:
    questions = [question(number, group=str(number % 10)) for number in range(30)]
    chosen = sample(questions, 4)
    assert len(chosen) == 12
    assert [int(q.id) for q in chosen] == sorted(int(q.id) for q in chosen)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(EvaluationError, match="limit: got 0"):
        sample([question(1)], 0)


def test_shots_depend_on_seed_and_id_and_never_show_the_question_s_image() -> None:
    examples = [f"example {number}" for number in range(8)]
    images = [f"image {number // 2}" for number in range(8)]
    for number in range(50):
        drawn = Shots(4).draw(examples, images, str(number), "image 2")
        assert drawn == Shots(4).draw(examples, images, str(number), "image 2")
        assert len(set(drawn)) == 4
        assert not {"example 4", "example 5"} & set(drawn)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at most the 2 training records"):
        Shots(3).draw(["a", "b"], ["x", "y"], "1", "z")
    with pytest.raises(EvaluationError, match="another image"):
        Shots(2).draw(["a", "b"], ["x", "x"], "1", "x")
