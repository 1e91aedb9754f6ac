from __future__ import annotations

import json

import numpy as np
import pytest

from paddlemix.zoo.scenes import evaluate
from paddlemix.zoo.scenes.evaluate import FIRST_SEED, TASKS, questions

COUNT, SIZE = 20, 48


@pytest.fixture(scope="module")
def oracle():
    """Knows the expected answer of every picture and question; about a picture it does not know it says nothing."""
    known = {
        (item.scene.image.tobytes(), item.text): item.expected
        for task in TASKS
        for language in ("en", "zh")
        for item in questions(task, language, COUNT, SIZE)
    }

    def answer(pictures, texts):
        return [known.get((np.asarray(p).tobytes(), text), "") for p, text in zip(pictures, texts)]

    return answer


def test_questions_are_the_same_at_every_call_and_never_from_training():
    first = [(item.scene.seed, item.text, item.expected) for item in questions(TASKS[0], "en", COUNT, SIZE)]
    assert first == [(item.scene.seed, item.text, item.expected) for item in questions(TASKS[0], "en", COUNT, SIZE)]
    assert min(seed for seed, _, _ in first) >= FIRST_SEED > 2**31
    assert len({seed for seed, _, _ in first}) == COUNT


def test_no_two_tasks_or_languages_share_a_scene():
    seeds = [
        item.scene.seed for task in TASKS for language in ("en", "zh") for item in questions(task, language, 5, SIZE)
    ]
    assert len(set(seeds)) == len(seeds)


def test_counts_are_balanced():
    task = next(task for task in TASKS if task.name == "count")
    counts = np.bincount([len(item.scene.objects) for item in questions(task, "zh", COUNT, SIZE)], minlength=6)
    assert counts.tolist() == [0, 4, 4, 4, 4, 4]


def test_whoever_knows_everything_scores_one_and_without_a_picture_nothing(oracle):
    results = evaluate.evaluate(oracle, count=COUNT, size=SIZE, batch=7)
    assert {result.task for result in results} == {task.name for task in TASKS}
    assert all(result.score == 1 and result.no_picture == 0 for result in results)
    located = [result for result in results if "IoU" in result.metric or result.task == "refer"]
    assert located and all(result.constant < 0.5 for result in located)


def test_the_constant_baseline_is_the_best_single_answer(oracle):
    task = next(task for task in TASKS if task.name == "count")
    results = evaluate.evaluate(lambda pictures, texts: ["no idea"] * len(texts), count=COUNT, size=SIZE, only=[task])
    assert [(result.score, result.constant) for result in results] == [(0, 0.2), (0, 0.2)]


def test_whoever_ignores_the_picture_scores_as_without_it():
    def blind(pictures, texts):
        return [f"<ref>dog</ref><box>(370,370),(630,{630 if 'picture' in text else 640})</box>" for text in texts]

    results = evaluate.evaluate(blind, count=COUNT, size=SIZE, only=TASKS[:2])
    assert all(result.score == result.no_picture for result in results)


def test_batches_keep_to_their_limit_and_cover_every_question(oracle):
    sizes = []

    def counting(pictures, texts):
        assert len(pictures) == len(texts)
        sizes.append(len(texts))
        return oracle(pictures, texts)

    evaluate.evaluate(counting, count=COUNT, size=SIZE, batch=8, only=TASKS[:1])
    assert max(sizes) <= 8 and sum(sizes) > 2 * COUNT


def test_the_report_has_a_line_per_metric_and_reads_back(oracle):
    results = evaluate.evaluate(oracle, count=COUNT, size=SIZE, only=TASKS[:2])
    table = evaluate.markdown_table(results).splitlines()
    assert table[0].startswith("| task | metric | score en | score zh | no picture en")
    assert len(table) == 2 + 7 + 4
    assert [line.split("|")[2].strip() for line in table[2:9]] == [
        "1 object", "2 objects", "3 objects", "4 objects", "5 objects", "1–3 objects", "1–5 objects",
    ]  # fmt: skip
    assert json.loads(evaluate.to_json(results))[0]["questions"] == COUNT
