"""What holds for the metrics whatever they are given; the numbers are in the golden files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.metrics import caption, caption_tokens
from paddlemix.evaluation.metrics.anls import anls
from paddlemix.evaluation.metrics.caption import score_tokens
from paddlemix.evaluation.metrics.choice import choose, losses_of_next_token, option_losses
from paddlemix.evaluation.metrics.exact_match import exact_match
from paddlemix.evaluation.metrics.gqa import official_measures, shorten
from paddlemix.evaluation.metrics.grit_refexp import refexp_hit, refexp_partitions
from paddlemix.evaluation.metrics.grounding import grounding_iou, is_hit, parse_box, parse_box_as_original
from paddlemix.evaluation.metrics.mmbench import Row, circular_strict, majority, submission_letters
from paddlemix.evaluation.metrics.mme import category_score, parse_label
from paddlemix.evaluation.metrics.relaxed_accuracy import relaxed_accuracy
from paddlemix.evaluation.metrics.science_qa import science_qa_groups
from paddlemix.evaluation.metrics.seed_bench import sample_frames, seed_hits
from paddlemix.evaluation.metrics.sharding import indices_in_whole_batches, original_ranges
from paddlemix.evaluation.metrics.touchstone import parse_reply, touchstone_scores
from paddlemix.evaluation.metrics.vqa_accuracy import normalize, strip_punctuation, vqa_accuracy
from paddlemix.evaluation.statistics import bootstrap_interval, mean_interval, wilson_interval

few = settings(max_examples=25, deadline=None)
words = st.sampled_from(["yes", "No", "two", "2", "a cup", "1,000", "the U.S.A.", "don't", "what?!", "", " x ", "3.5"])
texts = st.one_of(words, st.text(max_size=20))
annotators = st.lists(texts, min_size=10, max_size=10)
variants = st.sampled_from(["official", "textvqa", "original"])


@few
@given(texts, annotators, variants, st.randoms())
def test_vqa_accuracy_is_a_share_and_no_order_counts(prediction, answers, variant, random) -> None:
    value = vqa_accuracy(prediction, answers, variant)
    assert 0 <= value <= 1
    shuffled = random.sample(answers, len(answers))
    assert vqa_accuracy(prediction, shuffled, variant) == pytest.approx(value)
    assert vqa_accuracy(answers[0], [answers[0]] * 10, "official") == 1


def test_vqa_accuracy_counts_up_to_four_of_ten() -> None:
    for matches, value in enumerate((0, 0.3, 0.6, 0.9, 1.0, 1.0)):
        answers = ["blue"] * matches + [f"other{n}" for n in range(10 - matches)]
        assert vqa_accuracy("blue", answers) == pytest.approx(value)
    assert vqa_accuracy("blue", []) == 0


@few
@given(texts)
def test_normalizing_changes_nothing_twice(text) -> None:
    once = normalize(text)
    assert once == once.strip()
    assert strip_punctuation("plain words") == "plain words"


@few
@given(texts, st.lists(texts, min_size=1, max_size=4), st.booleans())
def test_metrics_of_text_are_shares_and_best_for_the_answer_itself(prediction, answers, as_original) -> None:
    reverse = answers[::-1]
    value = anls(prediction, answers, as_original=as_original)
    assert value == 0 or 0.5 <= value <= 1
    assert anls(prediction, reverse, as_original=as_original) == value
    assert exact_match(prediction, answers) in (0, 1)
    assert relaxed_accuracy(prediction, answers, as_original=as_original) in (0, 1)
    assert exact_match(answers[-1], answers) == anls(answers[-1], answers) == 1


def test_padding_raises_no_score() -> None:
    assert anls("abcdefg" + 20 * " ", ["abcxyz"]) == 0
    assert anls("abcdefg" + 20 * " ", ["abcxyz"], as_original=True) > 0.8
    assert anls("abcd", ["abxy"]) == 0.5


def test_relaxed_accuracy_is_not_symmetric() -> None:
    assert relaxed_accuracy("95", ["100"]) == 1 and relaxed_accuracy("95", ["100"], as_original=True) == 0
    assert relaxed_accuracy("100", ["95"]) == 0 and relaxed_accuracy("100", ["95"], as_original=True) == 1


@pytest.mark.parametrize(
    ("given_text", "short", "original"),
    [
        ("panda bear", "panda bear", "bear"),
        ("The car is red", "red", "red"),
        ("tennis of course", "tennis", "of course"),
        ("a man and a woman", "man and a woman", "and"),
        ("It is a dog.", "dog", "dog"),
        ("than the", "than the", "the"),
        ("", "", ""),
    ],
)
def test_gqa_answers_are_cut_at_words(given_text: str, short: str, original: str) -> None:
    assert shorten(given_text) == short
    assert shorten(given_text, as_original=True) == original


def test_gqa_measures_of_nothing_are_zero() -> None:
    assert official_measures({}, {})["accuracy"] == 0


coordinates = st.integers(0, 1000)


@few
@given(coordinates, coordinates, coordinates, coordinates, st.integers(1, 4000), st.integers(1, 4000))
def test_a_box_overlaps_itself(x1, y1, x2, y2, width, height) -> None:
    text = f"({x1},{y1}),({x2},{y2})"
    box = parse_box(text)
    assert box == (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    assert parse_box_as_original(text) == (x1, y1, x2, y2)
    pixels = [side / 1000 * size for side, size in zip(box, (width, height, width, height))]
    iou = grounding_iou(text, pixels, width, height)
    assert math.isnan(iou) or iou == pytest.approx(1, abs=1e-3)
    assert is_hit(iou) == (x1 != x2 and y1 != y2)


def test_boxes_are_read_out_of_other_text() -> None:
    assert parse_box("the cup (left), <box>( 1, 2 ), (30,40)</box>") == (1, 2, 30, 40)
    for text in ("", "(1,2)", "(a,b),(c,d)", "(1,2,3,4)"):
        assert parse_box(text) is None
        assert grounding_iou(text, (0, 0, 10, 10), 100, 100) == 0


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_grit_partitions_cover_the_samples(flags) -> None:
    names = ("is_new_source", "has_new_concept", "is_distorted")
    samples = [
        {"example_id": f"{n}_dist" if values[2] else str(n), **dict(zip(names, values))}
        for n, values in enumerate(flags)
    ]
    twins = [{**sample, "example_id": f"{n}", "is_distorted": False} for n, sample in enumerate(samples)]
    samples += [twin for twin, values in zip(twins, flags) if values[2]]
    hits = {sample["example_id"]: float(n % 3 == 0) for n, sample in enumerate(samples)}
    table = refexp_partitions(samples, hits)
    for name, is_new in (("sameSrc", False), ("newSrc", True)):
        count = sum(values[0] == is_new for values in flags)
        assert table.get(name, {"count": 0})["count"] == (count if count > 1 else 0)
    assert ("agg" in table) == ("sameSrc" in table and "newSrc" in table)
    assert all(0 <= part["mean"] <= 100 for name, part in table.items() if name != "deldist")
    assert refexp_hit([], (0, 0, 1, 1)) == 0 and refexp_hit([(0, 0, 10, 10)], (0, 0, 10, 10)) == 1


@few
@given(st.lists(st.integers(-40, 40), min_size=12, max_size=12), st.integers(2, 5))
def test_one_pass_chooses_as_a_row_for_each_option_does(values, count) -> None:
    logits = np.array(values, np.float32) / 8
    options = list(range(count))
    rows = np.array([[7, 8, option] for option in options])
    whole = np.stack([np.stack([np.zeros(12, np.float32), logits])] * count)
    by_row = option_losses(rows, whole, [1] * count)
    by_pass = losses_of_next_token(logits, options)
    assert by_pass == pytest.approx(by_row, abs=1e-5)
    assert choose(list(by_pass)) == int(np.argmax(logits[:count]))


def test_the_first_of_equal_losses_is_chosen() -> None:
    assert choose([2.0, 1.0, 1.0]) == 1


def test_mmbench_counts_a_question_once() -> None:
    rotations = [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    rows = [Row(7 + 1_000_000 * n, shown, shown.index("a"), shown.index("a")) for n, shown in enumerate(rotations)]
    assert circular_strict(rows) == majority(rows) == {7: True}
    rows[2] = Row(2_000_007, rotations[2], 1, 0)
    assert circular_strict(rows) == {7: False} and majority(rows) == {7: True}
    assert submission_letters(rows[::-1]) == {7: "A", 1_000_007: "C", 2_000_007: "B"}
    tie = [Row(7 + 1_000_000 * n, shown, 0, 0) for n, shown in enumerate(rotations)]
    assert submission_letters(tie[::-1])[7] == "A"


@few
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_mme_scores_are_bounded(responses) -> None:
    score = category_score([[("yes", first), ("no", second)] for first, second in responses])
    assert 0 <= score.accuracy_plus <= score.accuracy <= 1
    assert 0 <= score.score <= 200


def test_mme_labels_are_those_of_the_script() -> None:
    labels = {"Yes": "yes", "Not sure": "no", "know": "no", "**Yes**": "other", "It is yes": "other", "": "other"}
    assert {text: parse_label(text) for text in labels} == labels


def test_groups_of_nothing_are_left_out() -> None:
    problem = {"answer": 1, "split": "test", "hint": "", "image": None, "grade": "grade12", "topic": "verbs"}
    groups = science_qa_groups({"1": problem, "2": {**problem, "split": "val"}}, {"1": 1, "2": 0})
    assert groups == {"acc_average": 100, "acc_no_context": 100, "acc_grade_7_12": 100, "acc_verbs": 100}


@few
@given(st.integers(1, 400), st.integers(1, 12))
def test_frames_are_in_the_video_and_in_order(length, wanted) -> None:
    frames = sample_frames(length, wanted)
    assert len(frames) == min(length, wanted)
    assert frames == sorted(frames)
    assert all(0 <= frame < length for frame in frames)
    assert seed_hits([(9, True), (10, False)])["all"] == [True, False]


@few
@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 9))
def test_ranges_cover_all_records(total, processes, batch) -> None:
    spans = [range(*span) for span in original_ranges(total, processes) if span]
    assert [index for span in spans for index in span] == list(range(total))
    kept = indices_in_whole_batches(total, processes, batch)
    assert kept == sorted(set(kept)) and len(kept) % batch == 0 and total - len(kept) < processes * batch


def test_failed_rounds_of_a_judge_do_not_count() -> None:
    scores = touchstone_scores([("a,b", {"ours": 6.0}), ("a", None), ("b", {"ours": 8.0})])
    assert scores["a"] == {"ours": 600} and scores["b"] == {"ours": 700}
    for reply in ("0 5", "nan 5", "5 11", "5", "a b"):
        assert parse_reply(reply) is None
    assert parse_reply("0 5", as_original=True) == (0, 5)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_intervals_hold_the_mean(values) -> None:
    mean = sum(values) / len(values)
    low, high = mean_interval(values)
    assert low - 1e-9 <= mean <= high + 1e-9
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_intervals_are_those_of_the_textbook() -> None:
    low, high = wilson_interval(300, 500)
    assert (low, high) == pytest.approx((0.5565, 0.6421), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)
    low, high = bootstrap_interval([0.0, 1.0] * 20_000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 200, rel=1e-3)


# ---------------------------------------------------------------- captions


def test_captions_keep_their_places() -> None:
    texts = ["A dog.", "two\r\x0b\x0c\u2028lines\n", "", "(left) cup", ""]
    expected = ["a dog", "two lines", "", "-lrb- left -rrb- cup", ""]
    assert caption_tokens.tokenize(texts, approximate=True) == expected
    if caption_tokens.has_java():
        assert caption_tokens.tokenize(texts) == expected
    assert caption_tokens.tokenize([]) == []


def test_without_java_tokens_are_approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_tokens.shutil, "which", lambda name: None)
    assert caption_tokens.tokenize(["A dog's tail!"]) == ["a dog 's tail"]


def test_a_tokenizer_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\necho 'no memory' >&2\nexit 3\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EvaluationError, match="java ended with status 3: no memory"):
        caption_tokens.tokenize(["a"], approximate=False)
    fake.write_text("#!/bin/sh\nprintf 'a\\nb\\nc\\n'\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="2 went into the tokenizer and 3 came out"):
        caption_tokens.tokenize(["a", "b"], approximate=False)


def test_meteor_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meteor:
        def compute_score(self, references, predictions):
            raise BrokenPipeError(32, "Broken pipe")

    find = caption._scorer
    monkeypatch.setattr(caption, "_scorer", lambda module, name: Meteor() if name == "Meteor" else find(module, name))
    scores = score_tokens({"1": ["a cup"]}, {"1": ["a cup"]}, with_meteor=True)
    assert scores.meteor is None and "Broken pipe" in scores.meteor_failure
    assert scores.rouge_l == pytest.approx(1)


def test_order_of_images_does_not_change_caption_scores() -> None:
    references = {color: [f"a {color} cup on the table", f"one {color} cup"] for color in ("red", "blue", "gray")}
    predictions = {image: [captions[0]] for image, captions in references.items()}
    first = score_tokens(references, predictions, with_meteor=False)
    backwards = dict(reversed(predictions.items()))
    second = score_tokens({image: references[image] for image in backwards}, backwards, with_meteor=False)
    assert second.cider == pytest.approx(first.cider) and second.bleu == pytest.approx(first.bleu)
    assert second.cider_per_image == pytest.approx(first.cider_per_image)
    assert first.rouge_l == pytest.approx(1) and first.meteor is None
