"""Lessons: files that can be learned from, and a model that learns from them, by the config of the example."""

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.bundled_model.scenes import demo, evaluate, lesson, pairs
from examples.bundled_model.scenes.lesson import write_lesson
from examples.bundled_model.scenes.lexicon import ALL_KINDS, KIND_INDEX, NEW_KINDS
from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.training.recipe import STAGES
from paddlemix.data.records import read_records
from paddlemix.errors import CheckpointError, ConfigurationError, TargetError
from paddlemix.finetune.configuration import FinetuneConfig
from paddlemix.models.qwen_vl import grounding
from paddlemix.zoo import DEFAULT_MODEL

CONFIG = Path(__file__).resolve().parents[4] / "examples" / "qwen_vl" / "teach_object.json"


@pytest.fixture(scope="module")
def robots(tmp_path_factory):
    return write_lesson("robot", tmp_path_factory.mktemp("robots"), images=10, test_images=6)


def turns(record):
    """(speaker, text without images) of a record."""
    return [
        (message["role"], "".join(part["text"] for part in message["content"] if part["type"] == "text"))
        for message in record.messages
        if message["role"] != "system"
    ]


def answers(record):
    return [text for speaker, text in turns(record) if speaker == "assistant"]


def test_every_record_is_about_one_image_that_is_there(robots):
    for path in (robots.train, robots.test):
        for record in read_records(path):
            (image,) = record.images
            with Image.open(image) as opened:
                assert opened.size == (lesson.IMAGE_SIZE, lesson.IMAGE_SIZE)


def test_the_numbers_told_are_those_of_the_files(robots):
    train, test = read_records(robots.train), read_records(robots.test)
    assert (len(train), len(test)) == (robots.conversations, robots.questions)
    assert len({record.images[0] for record in train}) == 20  # with the object and without it


def test_the_object_is_asked_for_in_both_languages_about_half_of_the_training_images(robots):
    labels = {}
    for record in read_records(robots.train):
        for answer in answers(record):
            labels.setdefault(record.images[0], set()).update(box.label for box in grounding.parse(answer))
    assert sum({"robot", "机器人"} <= found for found in labels.values()) == 10
    assert sum(not {"robot", "a robot", "机器人"} & found for found in labels.values()) == 10


def test_what_was_learned_before_is_asked_as_well(robots):
    said = " ".join(answer for record in read_records(robots.train) for answer in answers(record))
    known = [kind for kind in ALL_KINDS if kind not in NEW_KINDS and (kind.en in said or kind.zh in said)]
    assert len(known) >= 5


def test_boxes_are_those_of_the_scenes(robots):
    first = read_records(robots.train)[0]
    scene = generate_scene(_first_seed("robot"), size=lesson.IMAGE_SIZE, kinds=("robot",), num_objects=1)
    with Image.open(first.images[0]) as opened:
        np.testing.assert_array_equal(np.asarray(opened), scene.image)
    (box,) = grounding.parse(answers(first)[0])
    expected = [1000 * side for side in scene.objects[0].box]
    np.testing.assert_allclose([box.x1, box.y1, box.x2, box.y2], expected, atol=1)


def _first_seed(kind, seed=0):
    return lesson.FIRST_SEED + (seed * len(ALL_KINDS) + KIND_INDEX[kind]) * lesson.SEEDS_PER_LESSON


def test_the_test_asks_where_the_object_is_and_what_it_is_when_alone(robots):
    asked = [(turns(record), record.images[0]) for record in read_records(robots.test)]
    boxes = [grounding.parse(answer) for ((_, _), (_, answer)), _ in asked]
    assert [len(found) for found in boxes].count(1) == 6
    named = [answer for ((_, _), (_, answer)), _ in asked if not grounding.parse(answer)]
    assert len(named) == 2 and all("robot" in answer or "机器人" in answer for answer in named)


def test_no_test_image_is_learned_from(robots):
    train, test = (
        {Path(record.images[0]).read_bytes() for record in read_records(path)} for path in (robots.train, robots.test)
    )
    assert len(train) == 20 and len(test) == 6 and not train & test


def test_seeds_lie_apart_from_those_of_training_and_evaluation():
    first, last = (
        _first_seed(ALL_KINDS[0].en),
        _first_seed(ALL_KINDS[-1].en, seed=lesson.MAX_SEED - 1) + lesson.SEEDS_PER_LESSON,
    )
    groups = len(evaluate.TASKS) * 2
    assert max(stage.first_seed for stage in STAGES.values()) + 2**29 <= evaluate.FIRST_SEED
    assert evaluate.FIRST_SEED + groups * evaluate.SEEDS_PER_GROUP < first
    assert last < pairs.PARTNER_SEED


def test_the_same_seed_writes_the_same_files_and_another_one_others(tmp_path):
    def files(folder, **options):
        write_lesson("penguin", folder, images=2, test_images=1, **options)
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }

    first, again, other = files(tmp_path / "a"), files(tmp_path / "b"), files(tmp_path / "c", seed=1)
    assert first == again
    assert first.keys() == other.keys() and not set(first.values()) & set(other.values())


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("bus", {}, "kind: got 'bus', new objects are robot"),
        ("robot", {"images": 0}, "^images: got 0, expected 1 to "),
        ("robot", {"test_images": lesson.SEEDS_PER_PART + 1}, "^test_images: got "),
        ("robot", {"seed": -1}, "seed: got -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, kind, options, said):
    with pytest.raises(ConfigurationError, match=said):
        write_lesson(kind, tmp_path / "lesson", **options)
    assert not (tmp_path / "lesson").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file: cannot be written: is a file"):
        write_lesson("robot", tmp_path / "file", images=1, test_images=1)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_lesson_replaces_only_another_lesson_and_only_when_asked(tmp_path):
    folder, small = tmp_path / "lesson", {"images": 2, "test_images": 1}
    first = write_lesson("penguin", folder, **small)
    before = stamps(folder)
    assert write_lesson("penguin", folder, **small) == first and stamps(folder) == before
    with pytest.raises(TargetError, match="holds a finished result"):
        write_lesson("penguin", folder, **small, seed=1)
    write_lesson("penguin", folder, images=1, test_images=1, overwrite=True)
    assert len(list((folder / "images").iterdir())) == 3
    (folder / "images" / "mine.png").touch()
    with pytest.raises(TargetError, match="did not write .images/mine.png"):
        write_lesson("penguin", folder, **small, overwrite=True)


def test_a_lesson_that_was_interrupted_is_drawn_again(tmp_path, monkeypatch):
    small = {"images": 2, "test_images": 1}
    with monkeypatch.context() as patch:
        patch.setattr(lesson, "publish", lambda *arguments, **options: os._exit(7))
        child = os.fork()
        if child == 0:
            write_lesson("penguin", tmp_path / "lesson", **small)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert [path.name for path in (tmp_path / "lesson").iterdir()] == [".incomplete"]
    written = write_lesson("penguin", tmp_path / "lesson", **small)
    assert len(read_records(written.train)) == written.conversations
    assert not (tmp_path / "lesson" / ".incomplete").exists()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CheckpointError, match="lesson: cannot be written: No space left on device"):
        write_lesson("penguin", tmp_path / "lesson", images=1, test_images=1)
    assert not (tmp_path / "lesson").exists()
    with pytest.raises(CheckpointError, match="p.png: cannot be written: No space left on device"):
        demo.main([str(tmp_path / "p.png")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--size", "0"], ["--size", "100000"], ["--seed", "-1"], ["--seed", str(2**63)]])
def test_a_scene_that_cannot_be_drawn_is_refused(tmp_path, option):
    with pytest.raises(ConfigurationError, match=f"{option[0][2:]}: got {option[1]}"):
        demo.main([str(tmp_path / "p.png"), *option])


@pytest.mark.slow
def test_the_bundled_model_learns_the_object_and_its_adapter_can_be_loaded(tmp_path):
    from paddlemix.finetune.run import finetune
    from paddlemix.inference import load_model

    files = write_lesson("robot", tmp_path / "robots", images=4, test_images=2)
    where = {"data": str(files.train), "eval_data": str(files.test), "output_dir": str(tmp_path / "out")}
    shorter = {"max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "dataloader_num_workers": 0}
    finetune(FinetuneConfig.from_file(CONFIG, {**where, **shorter}))

    with open(tmp_path / "out" / "log.csv", encoding="utf-8") as file:
        losses = [float(row["eval_loss"]) for row in csv.DictReader(file) if row["eval_loss"]]
    assert len(losses) == 2 and losses[1] < losses[0] / 2
    assert (tmp_path / "out" / "samples" / "step-0-1.png").is_file()

    image = read_records(files.test)[0].images[0]
    question = "Show me the robot in the picture."  # as in the lesson
    before, after = (
        load_model(DEFAULT_MODEL, adapter=adapter).new_session().ask(question, images=[image])
        for adapter in (None, tmp_path / "out")
    )
    assert "robot" not in before.text  # it says where something is that it knows
    assert [box.label for box in after.boxes] == ["robot"]
