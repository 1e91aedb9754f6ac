"""Draws a lesson: pictures of an object that the bundled model does not know, and conversations to fine-tune it on.

    python -m paddlemix.zoo.scenes.lesson robot runs/robot-lesson --pictures 200

OUTPUT_FOLDER gets ``pictures/``, ``train.json`` and ``test.json``, in the original's schema. Each training picture
holds the object among others and is talked about several times: where the object is, what is in the picture, and what
is asked about any scene, so that what was learnt before is not forgotten. The test asks about other pictures: where the
object is and, where it stands alone, what it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...cli import positive
from ...errors import ConfigurationError
from . import tasks
from .lexicon import ALL_KINDS, KIND_INDEX, NEW_KINDS
from .scene import MAX_OBJECTS, Scene, generate_scene
from .tasks import LANGUAGES, Conversation

PICTURE_SIZE = 168  # what the bundled model looks at
TEST_PICTURES = 100
OTHER_QUESTIONS = 3
"""Conversations about a training picture beside those that are about the new object for sure."""

FIRST_SEED = 2**44  # above those of training and evaluation, below those of second pictures
SEEDS_PER_LESSON = 2**21
SEEDS_PER_FILE = 2**20
MAX_SEED = 1000

TRAIN, TEST = "train.json", "test.json"
PICTURES = "pictures"


@dataclass(frozen=True)
class Lesson:
    """How many pictures and conversations were written into which files."""

    train: Path
    test: Path
    pictures: int
    conversations: int
    questions: int


def write_lesson(
    kind: str, folder: Path, *, pictures: int = 200, test_pictures: int = TEST_PICTURES, seed: int = 0
) -> Lesson:
    """Draw the pictures of a lesson and write its conversations.

    Args:
        kind: English name of the object, out of ``ALL_KINDS``.
        folder: made if need be; files in it are written over.
        pictures, test_pictures: how many to learn from and to be asked about.
        seed: another one gives other pictures; the same one always the same files.

    Raises:
        ConfigurationError: an unknown object, a seed or a number of pictures out of range.
    """
    if kind not in KIND_INDEX:
        raise ConfigurationError(f"kind: got {kind!r}, known are {', '.join(KIND_INDEX)}")
    most = max(pictures, test_pictures)
    if most > SEEDS_PER_FILE:
        raise ConfigurationError(f"pictures: got {most}, a lesson has at most {SEEDS_PER_FILE}")
    if not 0 <= seed < MAX_SEED:
        raise ConfigurationError(f"seed: got {seed}, expected a whole number of at least 0 and below {MAX_SEED}")
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    first = FIRST_SEED + (seed * len(ALL_KINDS) + KIND_INDEX[kind]) * SEEDS_PER_LESSON
    train = [
        _record(folder, scene, f"train-{number}", part, conversation)
        for number, scene in enumerate(_scenes(kind, first, pictures))
        for part, conversation in enumerate(to_learn(scene))
    ]
    test = [
        _record(folder, scene, f"test-{number}", part, conversation)
        for number, scene in enumerate(_scenes(kind, first + SEEDS_PER_FILE, test_pictures))
        for part, conversation in enumerate(to_test(scene))
    ]
    for name, records in ((TRAIN, train), (TEST, test)):
        (folder / name).write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return Lesson(folder / TRAIN, folder / TEST, pictures, len(train), len(test))


def _scenes(kind: str, first_seed: int, count: int) -> list[Scene]:
    """Scenes with the object in each: alone, with one other, … with four others, evenly."""
    return [
        generate_scene(first_seed + number, size=PICTURE_SIZE, kinds=(kind,), num_objects=1 + number % MAX_OBJECTS)
        for number in range(count)
    ]


def _subject(scene: Scene) -> int:
    return scene.objects[0].kind  # the kinds that a scene must have come first


def to_learn(scene: Scene) -> list[Conversation]:
    """Where the object is, in both languages; a caption; questions as about any scene."""
    rng = np.random.default_rng([scene.seed, 2])
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    weights = {task: weight for task, weight in tasks.WEIGHTS.items() if task != "caption"}
    return [
        *(_where(scene, language, rng) for language in LANGUAGES),
        tasks.caption(scene, language, rng),
        *tasks.make_conversations(scene, rng, OTHER_QUESTIONS, weights),
    ]


def to_test(scene: Scene) -> list[Conversation]:
    """Where the object is, in one of the languages; what it is, if it stands alone."""
    rng = np.random.default_rng([scene.seed, 2])
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    asked = [_where(scene, language, rng)]
    return asked + [tasks.what(scene, language, rng)] if len(scene.objects) == 1 else asked


def _where(scene: Scene, language: str, rng: np.random.Generator) -> Conversation:
    subject = scene.objects[0]
    question = tasks.ask("refer", language, rng, kind=tasks.name(subject.kind, language))
    return Conversation("refer", language, ((question, tasks.grounded(subject, language)),), subject.kind)


def _record(folder: Path, scene: Scene, name: str, part: int, conversation: Conversation) -> dict[str, Any]:
    """A record of the original's schema; its picture is drawn with the first part."""
    picture = f"{PICTURES}/{name}.png"
    if part == 0:
        scene.pil().save(folder / picture, format="PNG")
    turns = []
    for number, (question, answer) in enumerate(conversation.turns):
        shown = "" if number else f"Picture 1: <img>{picture}</img>\n"
        turns += [{"from": "user", "value": shown + question}, {"from": "assistant", "value": answer}]
    return {"id": f"{name}-{part}", "conversations": turns}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    new = ", ".join(kind.en for kind in NEW_KINDS)
    parser.add_argument("kind", choices=KIND_INDEX, metavar="OBJECT", help=f"what is to be learnt; new objects: {new}")
    parser.add_argument("output_folder", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("--pictures", type=positive, default=200, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other pictures (default: %(default)s)")
    args = parser.parse_args(arguments)
    lesson = write_lesson(args.kind, args.output_folder, pictures=args.pictures, seed=args.seed)
    print(f"{lesson.train}: {lesson.conversations} conversations about {lesson.pictures} pictures")
    print(f"{lesson.test}: {lesson.questions} questions about {TEST_PICTURES} others")


if __name__ == "__main__":
    main()
