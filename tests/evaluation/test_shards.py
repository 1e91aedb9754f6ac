from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.shards import Shard, by_image, image_of, launched_device
from tests.evaluation.toys import toy_benchmark


def test_every_question_is_in_one_shard_and_an_images_questions_are_together() -> None:
    questions = toy_benchmark(questions=100).questions(Path())
    parts = [Shard(index, 4).select(questions) for index in range(1, 5)]
    assert sorted(q.id for part in parts for q in part) == sorted(q.id for q in questions)
    places = {image_of(q): index for index, part in enumerate(parts) for q in part}
    assert all(places[image_of(q)] == index for index, part in enumerate(parts) for q in part)


def test_questions_about_an_image_are_asked_in_succession_in_the_order_of_the_file() -> None:
    questions = toy_benchmark(questions=30).questions(Path())
    ordered = by_image(questions)
    images = [image_of(q) for q in ordered]
    assert sum(a != b for a, b in zip(images, images[1:])) == 5  # six images
    assert [int(q.id[1:]) for q in ordered if image_of(q) == "red.png"] == [0, 6, 12, 18, 24]
    assert by_image(questions[:18]) == [q for q in ordered if q in questions[:18]]


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1/0", "1", "a/b", "1/2/3"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match="shard: got"):
        Shard.parse(text)


def test_the_launchers_variables_choose_a_shard() -> None:
    assert Shard.from_environment({}) == Shard()
    assert Shard.from_environment({"PADDLE_TRAINER_ID": "2", "PADDLE_TRAINERS_NUM": "8"}) == Shard.parse("3/8")
    with pytest.raises(EvaluationError, match="PADDLE_TRAINER_ID"):
        Shard.from_environment({"PADDLE_TRAINER_ID": "x", "PADDLE_TRAINERS_NUM": "8"})


def test_the_launcher_gives_each_process_its_gpu() -> None:
    assert launched_device({"PADDLE_TRAINER_ID": "1", "FLAGS_selected_gpus": "3"}) == "gpu:3"
    assert launched_device({"FLAGS_selected_gpus": "3"}) is None
    assert launched_device({"PADDLE_TRAINER_ID": "1"}) is None
