from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from examples.bundled_model.scenes import evaluate
from examples.bundled_model.scenes.evaluate import FIRST_SEED, TASKS, questions
from examples.bundled_model.scenes.lexicon import KINDS
from examples.bundled_model.scenes.scoring import names_in

COUNT, SIZE = 20, 48


@pytest.fixture(scope="module")
def oracle():
    """Knows the expected answer of every image and question; about an image it does not know it says nothing."""
    known = {
        (b"".join(scene.image.tobytes() for scene in item.scenes), item.history, item.text): item.expected
        for task in TASKS
        for language in ("en", "zh")
        for item in questions(task, language, COUNT, SIZE)
    }

    def answer(prompts):
        images = [b"".join(np.asarray(image).tobytes() for image in prompt.images) for prompt in prompts]
        return [known.get((seen, prompt.history, prompt.text), "") for seen, prompt in zip(images, prompts)]

    return answer


def named(name: str) -> evaluate.Task:
    return next(task for task in TASKS if task.name == name)


def test_questions_are_the_same_at_every_call_and_never_from_training():
    first = [(item.scenes[0].seed, item.text, item.expected) for item in questions(TASKS[0], "en", COUNT, SIZE)]
    assert first == [(item.scenes[0].seed, item.text, item.expected) for item in questions(TASKS[0], "en", COUNT, SIZE)]
    assert min(seed for seed, _, _ in first) >= FIRST_SEED > 2**31
    assert len({seed for seed, _, _ in first}) == COUNT


def test_no_two_tasks_or_languages_share_a_scene():
    seeds = [
        scene.seed
        for task in TASKS
        for language in ("en", "zh")
        for item in questions(task, language, 5, SIZE)
        for scene in item.scenes
    ]
    assert len(set(seeds)) == len(seeds)


def test_counts_are_balanced():
    asked = questions(named("count"), "zh", COUNT, SIZE)
    counts = np.bincount([len(item.scenes[0].objects) for item in asked], minlength=6)
    assert counts.tolist() == [0, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("task", [task for task in TASKS if task.answers], ids=lambda task: task.name)
def test_answers_about_two_images_are_balanced(task):
    expected = Counter(item.expected for item in questions(task, "en", COUNT, SIZE))
    assert list(expected.values()) == [COUNT // task.answers] * task.answers


@pytest.mark.parametrize("name", ["where is it", "what colour is it"])
def test_a_question_about_it_comes_after_another_about_the_same_thing(name):
    for item in questions(named(name), "en", COUNT, SIZE):
        ((_, before),) = item.history
        assert " it" in item.text and names_in(before)[0] == KINDS[item.subject].en
        assert "box" not in before or name == "what colour is it"


def test_a_prompt_has_the_images_of_all_scenes():
    (item,) = questions(named("pair: which shows"), "en", 1, SIZE)
    images = evaluate.prompt(item).images
    for image, scene in zip(images, item.scenes):
        np.testing.assert_array_equal(np.asarray(image), scene.image)
    assert len(images) == 2


def test_a_style_that_training_never_shows_can_be_measured():
    for item in questions(TASKS[0], "en", 3, SIZE, style="fluent"):
        assert {placed.style for placed in item.scenes[0].objects} == {"fluent"}


def test_whoever_knows_everything_scores_one_and_without_an_image_nothing(oracle):
    results = evaluate.evaluate(oracle, count=COUNT, size=SIZE, batch=7)
    assert {result.task for result in results} == {task.name for task in TASKS}
    assert all(result.score > 0.97 and result.no_image == 0 for result in results)
    assert {result.metric for result in results if result.score < 1} == {"mean IoU"}  # coordinates are rounded
    located = [result for result in results if "IoU" in result.metric or "object" in result.metric]
    assert located and all(result.constant < 0.5 for result in located)


def test_the_constant_baseline_is_the_best_single_answer(oracle):
    tasks = [named("count"), named("pair: which shows")]
    results = evaluate.evaluate(lambda prompts: ["no idea"] * len(prompts), count=COUNT, size=SIZE, only=tasks)
    assert [(result.score, result.constant) for result in results] == [(0, 0.2), (0, 0.2), (0, 0.25), (0, 0.25)]


def test_the_constant_baseline_of_lists_is_a_whole_list_where_that_is_better():
    task = named("what (2–5 objects)")
    results = evaluate.evaluate(lambda prompts: ["no idea"] * len(prompts), count=COUNT, size=SIZE, only=[task])
    constant = {result.metric: result.constant for result in results if result.language == "en"}
    listed = [names_in(item.expected) for item in questions(task, "en", COUNT, SIZE)]
    assert constant["all right"] >= 1 / COUNT
    assert constant["recall"] >= max(map(len, listed)) / sum(map(len, listed))
    assert constant["precision"] >= 1 / COUNT


def test_whoever_ignores_the_image_scores_as_without_it():
    def blind(prompts):
        sides = [630 if "image" in prompt.text else 640 + len(prompt.history) for prompt in prompts]
        return [f"<ref>dog</ref><box>(370,370),(630,{side})</box>" for side in sides]

    results = evaluate.evaluate(blind, count=COUNT, size=SIZE, only=[*TASKS[:2], named("where is it")])
    assert all(result.score == result.no_image for result in results)


def test_batches_keep_to_their_limit_and_cover_every_question(oracle):
    sizes = []

    def counting(prompts):
        sizes.append(len(prompts))
        return oracle(prompts)

    evaluate.evaluate(counting, count=COUNT, size=SIZE, batch=8, only=TASKS[:1])
    assert max(sizes) <= 8 and sum(sizes) > 2 * COUNT


def test_the_report_has_a_line_per_metric_and_reads_back(oracle):
    results = evaluate.evaluate(oracle, count=COUNT, size=SIZE, only=TASKS[:2])
    table = evaluate.markdown_table(results).splitlines()
    assert table[0].startswith("| task | metric | score en | score zh | no image en")
    assert len(table) == 2 + 11 + 4
    assert {"1 object", "5 objects", "1–3 objects", "1–5 objects", "mean IoU", "IoU ≥ 0.75", "IoU ≥ 0.85"} <= {
        line.split("|")[2].strip() for line in table[2:13]
    }
    assert json.loads(evaluate.to_json(results))[0]["questions"] == COUNT


def test_the_constant_caption_does_not_look_at_the_models_answers():
    task = next(task for task in evaluate.TASKS if task.name == "caption")
    results = evaluate.evaluate(lambda prompts: ["nothing"] * len(prompts), count=COUNT, only=[task])
    constant = {result.metric: result.constant for result in results if result.language == "en"}
    assert all(result.score == 0 for result in results)
    assert 0 < constant["precision, named"] < constant["recall, named"] < 0.6
