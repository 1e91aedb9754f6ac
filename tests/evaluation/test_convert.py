"""Files of a data set's authors and those of public mirrors become the same converted files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from paddlemix.errors import EvaluationError, MissingDependencyError
from paddlemix.evaluation.benchmarks import get_benchmark
from paddlemix.evaluation.data.convert import convert
from paddlemix.evaluation.data.convert.frames import find_video, span
from paddlemix.evaluation.data.convert.grounding import corners
from paddlemix.evaluation.prompts import render
from paddlemix.evaluation.records import Answer
from tests.evaluation import small_sources
from tests.evaluation.small_data import right_answer

UNNAMED_IMAGES = ("chartqa", "ai2d")
"""Whose mirrors do not say the images' names."""


def content(name: str, data_dir: Path, split: str) -> list:
    """What a benchmark reads, but for the names that a mirror does not have."""
    questions = get_benchmark(name).questions(data_dir, split)
    if name in UNNAMED_IMAGES:
        return [(q.prompt[1:], q.references) for q in questions]
    return [(q.id, render(q.prompt), q.references, q.choices, q.group, q.metadata) for q in questions]


@pytest.mark.parametrize("name", sorted(small_sources.BOTH))
def test_both_routes_give_the_same_records(name: str, tmp_path: Path) -> None:
    write, split = small_sources.BOTH[name]
    write(tmp_path / "source", tmp_path / "mirror")
    first = convert(name, split, tmp_path / "source", tmp_path / "a")
    second = convert(name, split, tmp_path / "mirror", tmp_path / "b")
    assert first == second > 0
    assert content(name, tmp_path / "a", split) == content(name, tmp_path / "b", split)
    for question in get_benchmark(name).questions(tmp_path / "b", split):
        assert all(Path(image.path).read_bytes().startswith(b"\x89PNG") for image in question.images)


def test_equal_answers_stay_apart(tmp_path: Path) -> None:
    small_sources.vqav2(tmp_path / "source", tmp_path / "mirror")
    convert("vqav2", "val", tmp_path / "source", tmp_path)
    questions = get_benchmark("vqav2").questions(tmp_path)
    assert questions[0].references == tuple(small_sources.ANSWERS)
    score = get_benchmark("vqav2").score(questions, {q.id: Answer(q.id, "yes") for q in questions})
    assert score.value == 100
    assert convert("vqav2", "test-dev", tmp_path / "mirror", tmp_path) == 3


def test_options_that_read_as_missing_stay(tmp_path: Path) -> None:
    small_sources.mmbench(tmp_path / "source", tmp_path / "mirror")
    convert("mmbench", "dev", tmp_path / "mirror", tmp_path)
    questions = get_benchmark("mmbench").questions(tmp_path, "dev")
    assert questions[0].metadata["choices"] == ("None", "N/A", "007")
    assert "Context: N/A" in render(questions[0].prompt)
    score = get_benchmark("mmbench").score(questions, {q.id: right_answer(q) for q in questions})
    assert score.value == 100


def test_images_of_tables_are_written_as_they_are(tmp_path: Path) -> None:
    small_sources.touchstone(tmp_path / "source")
    convert("touchstone", "en", tmp_path / "source", tmp_path)
    (question,) = get_benchmark("touchstone").questions(tmp_path, "en")
    assert Path(question.image.path).read_bytes() == small_sources.picture(kind="JPEG")
    assert question.metadata["question"] == "What is\nit?"
    Path(question.image.path).write_bytes(b"another")
    with pytest.raises(EvaluationError, match="another image is there already"):
        convert("touchstone", "en", tmp_path / "source", tmp_path)


def test_boxes_become_corners() -> None:
    assert corners([10, 20, 100.5, 200], "x") == [10, 20, 110.5, 220]
    for box in ([10, 20, 0, 5], [1, 2, 3], None, ["a", 1, 2, 3]):
        with pytest.raises(EvaluationError, match="x: bbox: got"):
            corners(box, "x")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    small_sources.refcoco(tmp_path / "source", tmp_path / "mirror")
    (tmp_path / "source" / "refs(unc).p").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(EvaluationError, match="mkdir, expected plain values"):
        convert("refcoco", "val", tmp_path / "source", tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    small_sources.refcoco(tmp_path / "source", tmp_path / "mirror")
    path = tmp_path / "source" / "refs(unc).p"
    for content in (b"]r\xff\xff\xff\x7f.", b"]", b"", b"}.", b"X\xff\xff\xff\x7fab."):
        path.write_bytes(b"\x80\x02" + content)
        with pytest.raises(EvaluationError, match="cannot be read|expected a list of references"):
            convert("refcoco", "val", tmp_path / "source", tmp_path)


def test_examples_are_converted(tmp_path: Path) -> None:
    questions = [{"image_id": n, "question": f"Is it {n}?", "question_id": n} for n in range(6)]
    truth = [{**question, "answers": small_sources.annotated()} for question in questions]
    small_sources.value(tmp_path / "s/OpenEnded_mscoco_train2014_questions.json", {"questions": questions})
    small_sources.value(tmp_path / "s/mscoco_train2014_annotations.json", {"annotations": truth})
    small_sources.okvqa(tmp_path / "s", tmp_path / "x")
    assert convert("okvqa", "train", tmp_path / "s", tmp_path) == 6
    convert("okvqa", "val", tmp_path / "s", tmp_path)
    questions = get_benchmark("okvqa").questions(tmp_path, shots=4)
    assert render(questions[0].prompt).count("Answer: yes<img>data/coco/") == 4


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("easy-vqa", None, "needs no conversion"),
        ("seed-bench", "all", "expected image and video"),
        ("mme", "train", "has no training records, expected one of test"),
        ("gqa", "val", "gqa has no 'val'"),
        ("vqav2", None, "annotations.json: is missing"),
        ("touchstone", "en", "tsv: is missing"),
    ],
)
def test_what_cannot_be_converted_is_said(name: str, split: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=message):
        convert(name, split, tmp_path, tmp_path)
    with pytest.raises(EvaluationError):
        convert(name, split, tmp_path / "nowhere", tmp_path)


def test_mirrors_of_another_form_are_refused(tmp_path: Path) -> None:
    small_sources.parquet(tmp_path / "train-0.parquet", [{"a": 1}])
    with pytest.raises(EvaluationError, match="expected some that begin with val or validation or val2014"):
        convert("textvqa", "val", tmp_path, tmp_path)
    small_sources.parquet(tmp_path / "val-0.parquet", [{"a": 1}])
    with pytest.raises(EvaluationError, match="has no column 'image', only a"):
        convert("textvqa", "val", tmp_path, tmp_path)
    (tmp_path / "val-0.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(EvaluationError, match="cannot be read as parquet"):
        convert("textvqa", "val", tmp_path, tmp_path)
    assert not (tmp_path / "textvqa").exists() or not list((tmp_path / "textvqa").iterdir())


def test_videos_are_found_and_their_segments_taken(tmp_path: Path) -> None:
    (tmp_path / "v" / "ssv2").mkdir(parents=True)
    (tmp_path / "v" / "ssv2" / "17.webm").touch()
    assert find_video(tmp_path, "17") == tmp_path / "v" / "ssv2" / "17.webm"
    assert find_video(tmp_path, "18") is None
    assert span(100, 25.0, 10, None) == (0, 99)
    assert span(100, 25.0, 11, [1.0, 3.0]) == (25, 50)
    assert span(100, 25.0, 11, [1.0, 9.0]) == (25, 74)
    assert span(100, 25.0, 12, [10, 40]) == (10, 30)
    assert span(100, 25.0, 12, [90, 200]) == (90, 10)


def test_a_video_that_cannot_be_read_is_no_question(tmp_path: Path) -> None:
    choices = {f"choice_{letter}": "x" for letter in "abcd"}
    row = {**choices, "question_id": "v1", "question": "Which?", "answer": "A", "question_type_id": 10}
    small_sources.value(tmp_path / "SEED-Bench.json", {"questions": [{**row, "data_id": "17", "data_type": "video"}]})
    notes: list[str] = []
    with pytest.raises((EvaluationError, MissingDependencyError)):
        convert("seed-bench", "video", tmp_path, tmp_path / "out", notes.append)
    assert "video 17 is not below" in notes[0]


def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    row = {"filename": "../../out.jpg", "img_id": "1", "split": "test", "caption": ["a"], "image": small_sources.cell()}
    small_sources.parquet(tmp_path / "mirror" / "test-0.parquet", [row])
    with pytest.raises(EvaluationError, match="expected one that stays below"):
        convert("flickr30k", "test", tmp_path / "mirror", tmp_path / "in" / "data")
    assert not (tmp_path / "in" / "out.jpg").exists()


@pytest.mark.parametrize(
    ("name", "split", "file", "content", "message"),
    [
        ("scienceqa", "test", "problems.json", {}, "problems.json has no '0', which pid_splits.json names"),
        ("flickr30k", "test", "dataset_flickr30k.json", {"images": [{"split": "test"}]}, "sentences: there is none"),
        ("refcoco", "val", "instances.json", {"images": [], "annotations": []}, "'7' is missing"),
        ("docvqa", "val", "val/val_v1.0.json", {"data": [{"image": "x", "answers": ["a"]}]}, "questionId: there"),
        ("chartqa", "test", "test_human.json", [{"imgname": "a", "query": "b"}], "label: there is none"),
        ("ocrvqa", "test", "dataset.json", [1], "expected an object with a record for each id"),
        ("vqav2", "val", "v2_mscoco_val2014_annotations.json", {"annotations": []}, "question 420 has no annotation"),
        ("mme", "test", "count/0001.txt", "one line without a tab", "expected a question, a tab"),
        ("mmbench", "dev", "mmbench_dev_20230712.tsv", "index\tquestion\timage\nx\ty\tz", "index: got 'x'"),
        ("mmbench", "dev", "mmbench_dev_20230712.tsv", "index\tquestion\timage\n1\ty\t??", "got no base64"),
    ],
)
def test_damaged_sources_are_refused(
    name: str, split: str, file: str, content: object, message: str, tmp_path: Path
) -> None:
    small_sources.BOTH[name][0](tmp_path / "source", tmp_path / "mirror")
    path = tmp_path / "source" / file
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        small_sources.value(path, content)
    with pytest.raises(EvaluationError, match=message) as caught:
        convert(name, split, tmp_path / "source", tmp_path / "out")
    assert "\n" not in str(caught.value)
