"""Every benchmark reads its files, scores what is right as right, and says what cannot be scored."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from paddlemix.errors import EvaluationError, MissingDependencyError
from paddlemix.evaluation.benchmarks import BENCHMARKS, captions, get_benchmark
from paddlemix.evaluation.data.tables import read_table
from paddlemix.evaluation.metrics.caption_tokens import has_java
from paddlemix.evaluation.prompts import render
from paddlemix.evaluation.records import Answer, Question
from tests.evaluation import small_data
from tests.evaluation.small_data import right_answer, wrong_answer

SPLITS = [(name, split) for name, benchmark in BENCHMARKS.items() for split in benchmark.splits]
JUDGED = ("touchstone",)
CAPTIONS = ("nocaps", "flickr30k")
OWN_DATA = ("easy-vqa",)
SCORED = [
    (name, split)
    for name, split in SPLITS
    if BENCHMARKS[name].splits[split].is_scored and name not in JUDGED + CAPTIONS + OWN_DATA
]
HIDDEN = (("vqav2", "test-dev"), ("vizwiz", "test"), ("docvqa", "test"), ("mmbench", "test"), ("grit", "test"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    small_data.write_all(path)
    return path


def answers_of(questions: list[Question], make=right_answer) -> dict[str, Answer]:
    return {question.id: make(question) for question in questions}


@pytest.mark.parametrize(("name", "split"), [(name, split) for name, split in SPLITS if name not in OWN_DATA])
def test_questions_are_read(name: str, split: str, data_dir: Path) -> None:
    questions = get_benchmark(name).questions(data_dir, split)
    assert questions
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert (question.benchmark, question.split) == (name, split)
        assert question.images
        assert Path(question.images[0].path).is_file()
        assert bool(question.choices) == (BENCHMARKS[name].generation.max_new_tokens == 0)


@pytest.mark.parametrize(("name", "split"), SCORED)
@pytest.mark.parametrize("compat", [None, "original"])
def test_right_answers_have_the_best_score_and_wrong_ones_the_worst(
    name: str, split: str, compat: str | None, data_dir: Path
) -> None:
    benchmark = get_benchmark(name)
    questions = benchmark.questions(data_dir, split)
    best = benchmark.score(questions, answers_of(questions), compat=compat)
    worst = benchmark.score(questions, answers_of(questions, wrong_answer), compat=compat)
    assert best.value == pytest.approx(2000 if name == "mme" else 100)
    assert worst.value == pytest.approx(0.0)
    for score in (best, worst):
        low, high = score.interval
        assert low - 1e-9 <= score.value <= high + 1e-9
        assert score.n > 0


@pytest.mark.parametrize(("name", "split"), SCORED)
def test_order_does_not_change_a_score(name: str, split: str, data_dir: Path) -> None:
    benchmark = get_benchmark(name)
    questions = benchmark.questions(data_dir, split)
    draw = random.Random(1)
    answers = {q.id: draw.choice((right_answer, wrong_answer))(q) for q in questions}
    shuffled = draw.sample(questions, len(questions))
    first, second = benchmark.score(questions, answers), benchmark.score(shuffled, answers)
    assert second.value == pytest.approx(first.value)
    assert {name: part.value for name, part in second.by_category.items()} == pytest.approx(
        {name: part.value for name, part in first.by_category.items()}
    )


@pytest.mark.skipif(not has_java(), reason="caption scores are defined by a Java program")
def test_captions_are_scored(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # METEOR takes seconds to start
    monkeypatch.setattr(captions, "caption_scores", partial(captions.caption_scores, with_meteor=False))
    benchmark = get_benchmark("flickr30k")
    questions = benchmark.questions(data_dir)
    best = benchmark.score(questions, answers_of(questions))
    worst = benchmark.score(questions, answers_of(questions, wrong_answer))
    assert best.value > 100 > worst.value >= 0
    assert best.others["BLEU-4"] == pytest.approx(100)
    assert not benchmark.allows_samples


def test_the_truth_of_hidden_tests_is_not_made_up(data_dir: Path) -> None:
    for name, split in HIDDEN:
        benchmark = get_benchmark(name)
        questions = benchmark.questions(data_dir, split)
        with pytest.raises(EvaluationError, match="not public"):
            benchmark.score(questions, answers_of(questions))
    questions = get_benchmark("touchstone").questions(data_dir)
    with pytest.raises(EvaluationError, match="judge"):
        get_benchmark("touchstone").score(questions, answers_of(questions))


def test_answers_must_be_those_of_the_questions(data_dir: Path) -> None:
    benchmark = get_benchmark("gqa")
    questions = benchmark.questions(data_dir)
    answers = answers_of(questions)
    with pytest.raises(EvaluationError, match="1 are to questions that gqa does not have here, the first is '999'"):
        benchmark.score(questions, {**answers, "999": Answer("999")})
    del answers["101"]
    with pytest.raises(EvaluationError, match="1 of 6 questions have none, the first is '101'"):
        benchmark.score(questions, answers)
    assert benchmark.score(questions, answers, partial=True).n == 5
    with pytest.raises(EvaluationError, match="got none"):
        benchmark.score(questions, {}, partial=True)


def test_questions_that_count_together_are_scored_together(data_dir: Path) -> None:
    benchmark = get_benchmark("mmbench")
    questions = benchmark.questions(data_dir, "dev")
    answers = answers_of(questions)
    answers.pop(questions[0].id)
    assert benchmark.score(questions, answers, partial=True).n == 2


def test_examples_stand_before_the_question(data_dir: Path) -> None:
    questions = get_benchmark("okvqa").questions(data_dir, shots=2)
    assert questions == get_benchmark("okvqa").questions(data_dir, shots=2)
    for question in questions:
        text = render(question.prompt)
        assert text.count(" Answer: ") == 2
        assert text.endswith("? Answer:")
        assert question.image.name not in [image.name for image in question.images[:-1]]
    captioned = get_benchmark("flickr30k").questions(data_dir, shots=1)
    assert [len(question.images) for question in captioned] == [2] * 4
    with pytest.raises(EvaluationError, match="asked without examples"):
        get_benchmark("mme").questions(data_dir, shots=1)


def test_rotations_of_a_question_share_its_image(data_dir: Path) -> None:
    questions = get_benchmark("mmbench").questions(data_dir, "dev")
    assert {(question.group, question.image.name.rsplit("/", 1)[1]) for question in questions} == {
        (str(number), f"{number}.jpg") for number in range(3)
    }


def test_words_that_stand_for_missing_values_stay_options(data_dir: Path) -> None:
    questions = get_benchmark("mmbench").questions(data_dir, "dev")
    assert questions[0].metadata["row"]["A"] == "None"
    assert "A. None\nB. N/A\nC. 007" in render(questions[0].prompt)


def test_answers_are_scored_as_the_original_does(data_dir: Path) -> None:
    questions = get_benchmark("gqa").questions(data_dir)
    answers = {q.id: Answer(q.id, f"a {q.references[0]} panda of course") for q in questions}
    original = get_benchmark("gqa").score(questions, answers, compat="original")
    assert original.value == 0
    questions = get_benchmark("refcoco").questions(data_dir, "val")
    score = get_benchmark("refcoco").score(questions, answers_of(questions), compat="original")
    assert score.n == 64
    assert score.notes[0].startswith("36 of 100 records are left out")


@pytest.mark.parametrize(
    ("name", "split", "first"),
    [
        ("vqav2", "test-dev", {"question_id": 100, "answer": "red"}),
        ("vizwiz", "test", {"image": "0.png", "answer": "red"}),
        ("docvqa", "test", {"questionId": 100, "answer": "red"}),
        ("gqa", "testdev", {"questionId": "100", "prediction": "red"}),
    ],
)
def test_submissions_of_text(name: str, split: str, first: dict, data_dir: Path, tmp_path: Path) -> None:
    benchmark = get_benchmark(name)
    questions = benchmark.questions(data_dir, split)
    answers = answers_of(questions)
    benchmark.write_submission(tmp_path / "out.json", questions, answers)
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(written) == len(questions)
    assert written[0] == first
    answers.pop(questions[0].id)
    with pytest.raises(EvaluationError, match="1 of 6 questions have no answer"):
        benchmark.write_submission(tmp_path / "second.json", questions, answers)
    assert not (tmp_path / "second.json").exists()


def test_submission_to_mmbench(data_dir: Path, tmp_path: Path) -> None:
    import openpyxl

    benchmark = get_benchmark("mmbench")
    questions = benchmark.questions(data_dir, "test")
    answers = answers_of(questions)
    answers["0"] = wrong_answer(questions[0])
    benchmark.write_submission(tmp_path / "out.xlsx", questions, answers)
    header, *rows = openpyxl.load_workbook(tmp_path / "out.xlsx").active.iter_rows(values_only=True)
    assert header == (
        "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split", "prediction",
    )  # fmt: skip
    table = [dict(zip(header, row)) for row in rows]
    assert len(table) == 9
    # one option for all rotations, with whichever letter it has there
    assert len({row[row["prediction"]] for row in table if row["index"] % 1_000_000 == 1}) == 1


def test_submission_to_seed_bench(data_dir: Path, tmp_path: Path) -> None:
    benchmark = get_benchmark("seed-bench")
    questions = benchmark.questions(data_dir, "all")
    benchmark.write_submission(tmp_path / "out.jsonl", questions, answers_of(questions))
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written[:2] == [{"question_id": "0", "prediction": "A"}, {"question_id": "1", "prediction": "B"}]


def test_submission_to_grit(data_dir: Path, tmp_path: Path) -> None:
    benchmark = get_benchmark("grit")
    questions = benchmark.questions(data_dir, "test")
    answers = {q.id: Answer(q.id, "(500,500),(1000,2000)", 12, -0.1) for q in questions}
    answers["e1"] = Answer("e1", "nothing")
    benchmark.write_submission(tmp_path / "out.zip", questions, answers)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == ["test/params.json", "test/refexp.json"]
        first, second, *_ = json.loads(archive.read("test/refexp.json"))
    assert first["bboxes"] == [[32, 24, 64, 48]]
    assert first["confidence"] == pytest.approx(0.9048, abs=1e-4)
    assert second["bboxes"] == []


def test_answers_for_the_script_of_mme_are_a_line_each(data_dir: Path, tmp_path: Path) -> None:
    benchmark = get_benchmark("mme")
    questions = benchmark.questions(data_dir)
    answers = {q.id: Answer(q.id, "Yes,\tit\nis.") for q in questions}
    benchmark.write_submission(tmp_path / "out.zip", questions, answers)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert len(archive.namelist()) == 14
        lines = archive.read("OCR.txt").decode().splitlines()
    assert lines[0] == "0.png\tIs it Yes? Please answer yes or no.\tYes\tYes, it is."
    assert len(lines) == 6


def test_answers_for_the_script_of_touchstone_are_a_table(data_dir: Path, tmp_path: Path) -> None:
    benchmark = get_benchmark("touchstone")
    questions = benchmark.questions(data_dir, "en")
    answers = {q.id: Answer(q.id, "two\nlines\tand a tab") for q in questions}
    benchmark.write_submission(tmp_path / "out.tsv", questions, answers)
    rows = list(read_table(tmp_path / "out.tsv"))
    assert [row["response"] for row in rows] == ["two\nlines\tand a tab"] * 3
    assert rows[0]["human_annotation"] == "text"


def test_reading_and_scoring_take_no_paddle() -> None:
    modules = "paddlemix.evaluation.data.convert, paddlemix.evaluation.data.checks"
    code = f"import sys, {modules}; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_option_can_be_told_by_its_letter(data_dir: Path) -> None:
    benchmark = get_benchmark("scienceqa")
    questions = benchmark.questions(data_dir)
    answers = {q.id: Answer(q.id, f"{'AB'[q.metadata['answer']]}. the cat") for q in questions}
    answers["0"] = Answer("0", "Because")
    score = benchmark.score(questions, answers)
    assert score.value == pytest.approx(100 * 5 / 6)
    assert score.notes == ("1 answers name no option and count as wrong.",)
    answers["0"] = Answer("0", losses=(1.0,))
    with pytest.raises(EvaluationError, match="losses of answer 0: got 1"):
        benchmark.score(questions, answers)


QUESTION = {"image": "a", "question": "b", "question_id": 1, "answer": "x"}
BOX = {"image": "a", "sent": "b", "bbox": [50, 20, 40, 30], "width": 64, "height": 48}
PROBLEM = {"image": "a", "hint": "", "question": "b", "choices": ["x", "y"], "answer": 2}
SEED = {"question_id": "0", "prompt": "cannot read", "answer": "A"}
GQA, MME = "gqa/testdev_balanced.jsonl", "mme/Your_Results/count.txt"
TABLE = "mmbench/mmbench_dev_20230712/mmbench_dev_20230712.tsv"
ANNOTATIONS = "vqav2/v2_mscoco_val2014_annotations.json"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (GQA, '{"image": "a.png", "question": "Is', r"balanced\.jsonl:1: is no JSON"),
        (GQA, "", "the file is empty"),
        (GQA, "[1]", ":1: got list, expected a JSON object"),
        (GQA, {"image": "a", "question_id": 1, "answer": "x"}, ":1: question: there is none"),
        (GQA, {**QUESTION, "answer": 7}, ":1: answer: got 7, expected a text or a list of texts"),
        (GQA, f"{json.dumps(QUESTION)}\n{json.dumps(QUESTION)}", r":2: question_id '1' stands at .*:1 already"),
        (ANNOTATIONS, {"annotations": []}, "expected files of the same split"),
        (ANNOTATIONS, {"annotation": 1}, "expected a list of JSON objects"),
        (ANNOTATIONS, {"annotations": [{"question_id": 1, "answers": ["x"]}]}, "answers: got"),
        ("refcoco/refcoco_val.jsonl", BOX, "bbox: got .* not width and height"),
        ("refcoco/refcoco_val.jsonl", {**BOX, "bbox": [0, 0, 640, 30]}, "within the image's 64 x 48 pixels"),
        (MME, "a.png\tIs it?\tMaybe", r"count\.txt:1: expected image"),
        (MME, "a.png\tIs it?\tYes\nb.png\tIs it?\tNo", "a.png stands alone"),
        ("seed-bench", SEED, "error message"),
        (TABLE, "question\timage\na\tb", "expected one named index"),
        (TABLE, "index\tA\n1", ":2: got 1 fields, expected 2"),
        ("scienceqa/scienceqa_test_img.jsonl", PROBLEM, "answer: got 2, expected a whole number from 0 to 1"),
        ("nocaps/nocaps_val.json", {"images": [{"id": 1, "image": "a"}], "annotations": []}, "image 1 has no caption"),
    ],
)
def test_damaged_data_is_refused(file: str, content: object, message: str, tmp_path: Path, data_dir: Path) -> None:
    name = Path(file).parts[0]
    file = "seed_bench/image_input.jsonl" if name == "seed-bench" else file
    for path in data_dir.iterdir():
        (tmp_path / path.name).symlink_to(path)
    folder = tmp_path / Path(file).parts[0]
    folder.unlink()
    copy_texts(data_dir / folder.name, folder)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / file).write_text(text and text + "\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match=message) as caught:
        get_benchmark(name).questions(tmp_path)
    assert "\n" not in str(caught.value)


def copy_texts(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            copy_texts(path, target / path.name)
        elif path.suffix not in (".png", ".jpg"):
            (target / path.name).write_bytes(path.read_bytes())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name, benchmark in BENCHMARKS.items():
        if name not in OWN_DATA:
            with pytest.raises(EvaluationError, match="is missing; 'paddlemix evaluate data"):
                benchmark.questions(tmp_path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(EvaluationError, match="there is no 'vqa', expected one of: nocaps"):
        get_benchmark("vqa")
    with pytest.raises(EvaluationError, match="vqav2 has no 'test', expected one of: val, test-dev"):
        get_benchmark("vqav2").split("test")


def test_easy_vqa_comes_with_its_package() -> None:
    benchmark = get_benchmark("easy-vqa")
    questions = benchmark.questions(Path("nowhere"))
    assert len(questions) == benchmark.split().questions
    assert len({question.image.path for question in questions}) == 1000
    answers = {q.id: replace(right_answer(q), text=f"{q.references[0]}.") for q in questions}
    assert benchmark.score(questions, answers).value == 100


@pytest.mark.parametrize("name", ["nocaps", "docvqa", "mmbench"])
def test_what_scoring_needs_is_missed_before_a_model_is_asked(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = BENCHMARKS[name].needs[0]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == package else find(asked))
    with pytest.raises(MissingDependencyError, match=rf"{package}.*to install: pip install -e '\.\[eval"):
        get_benchmark(name).questions(data_dir)
