"""Draws a lesson: images of an object that the bundled model does not know, and conversations to fine-tune it on.

    python -m examples.bundled_model.scenes.lesson robot runs/robot-lesson --images 200

OUTPUT_FOLDER gets ``images/``, ``train.json`` and ``test.json``, in the original's schema, and ``lesson.json``, which
says what is in it. To learn from there are
images with the object among others, and as many without it: shown it in every image, a model names it in any.
Each is talked about several times: where the object is, what is in the image, and what is asked about any scene, so
that what was learned before is not forgotten. The test asks about other images: where the object is and, where it
stands alone, what it is.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddlemix.checkpoint.target import (
    LESSON_MANIFEST,
    Staging,
    check_target,
    publish,
    require_free,
    staging_in,
    survey,
)
from paddlemix.cli import common as cli
from paddlemix.errors import ConfigurationError
from paddlemix.utils.files import read_json_if_whole, write_json, write_text

from . import tasks
from .lexicon import ALL_KINDS, KIND_INDEX, NEW_KINDS
from .scene import MAX_OBJECTS, Scene, generate_scene
from .tasks import LANGUAGES, Conversation

IMAGE_SIZE = 168  # what the bundled model looks at
TEST_IMAGES = 100
OTHER_CONVERSATIONS = 1
"""About a training image with the object, beside those that are about it for sure."""
CONVERSATIONS_WITHOUT = 2
"""About a training image without the object, beside the caption."""

FIRST_SEED = 2**44  # above those of training and evaluation, below those of second images
SEEDS_PER_LESSON = 2**22
SEEDS_PER_PART = 2**20  # of a lesson: training images with the object, test images, training images without it
MAX_SEED = 1000

NAMES = tuple(kind.en for kind in NEW_KINDS)
TRAIN, TEST = "train.json", "test.json"
IMAGES = "images"
_WITHOUT_CAPTIONS = {task: weight for task, weight in tasks.WEIGHTS.items() if task != "caption"}


@dataclass(frozen=True)
class Lesson:
    """The files of a lesson, and how many conversations each has."""

    train: Path
    test: Path
    conversations: int
    questions: int


def write_lesson(
    kind: str,
    folder: str | os.PathLike[str],
    *,
    images: int = 200,
    test_images: int = TEST_IMAGES,
    seed: int = 0,
    overwrite: bool = False,
) -> Lesson:
    """Draw the images of a lesson and write its conversations. They appear when all of them are there; the same
    lesson that is there already is left as it is.

    Args:
        kind: English name of the object, out of ``NEW_KINDS``.
        folder: made if need be.
        images: with the object, to learn from; as many without it are drawn as well.
        test_images: with the object, to be asked about.
        seed: another one gives other images; the same one always the same files.
        overwrite: replace another lesson in ``folder``. Anything else there is left alone.

    Raises:
        TargetError: ``folder`` holds something else.
        CheckpointError: it cannot be written; it is then as it was.
        ConfigurationError: an unknown object, a seed or a number of images out of range.
    """
    if kind not in NAMES:
        raise ConfigurationError(f"kind: got {kind!r}, new objects are {', '.join(NAMES)}")
    for name, number in (("images", images), ("test_images", test_images)):
        if not 1 <= number <= SEEDS_PER_PART:
            raise ConfigurationError(f"{name}: got {number}, expected 1 to {SEEDS_PER_PART}")
    if not 0 <= seed < MAX_SEED:
        raise ConfigurationError(f"seed: got {seed}, expected a whole number of at least 0 and below {MAX_SEED}")
    folder = check_target(folder, "folder")
    lesson = {"kind": kind, "images": images, "test_images": test_images, "seed": seed}

    def allowed(target: Path) -> None:
        if _written(target, lesson) is None:
            require_free(target, overwrite=overwrite)

    with staging_in(folder, allowed) as staging:
        manifest = _written(folder, lesson)
        if manifest is None:
            manifest = _write(folder, staging, lesson)
    return Lesson(folder / TRAIN, folder / TEST, manifest["conversations"], manifest["questions"])


def _written(folder: Path, lesson: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the same lesson, if all of it is in ``folder``."""
    manifest = read_json_if_whole(folder / LESSON_MANIFEST)
    if manifest is None or {name: manifest.get(name) for name in lesson} != dict(lesson):
        return None
    counts, files = [manifest.get("conversations"), manifest.get("questions")], manifest.get("files")
    whole = all(isinstance(count, int) for count in counts) and isinstance(files, list)
    return manifest if whole and all((folder / str(name)).is_file() for name in files) else None


def _write(folder: Path, staging: Staging, lesson: Mapping[str, Any]) -> dict[str, Any]:
    staging.clear()
    planned = [IMAGES, TRAIN, TEST, LESSON_MANIFEST]
    staging.record(planned)
    (staging.path / IMAGES).mkdir()
    kind, images = lesson["kind"], lesson["images"]
    first = FIRST_SEED + (lesson["seed"] * len(ALL_KINDS) + KIND_INDEX[kind]) * SEEDS_PER_LESSON
    parts = {
        "train": (_scenes(first, images, (kind,)), to_learn),
        "test": (_scenes(first + SEEDS_PER_PART, lesson["test_images"], (kind,)), to_test),
        "other": (_scenes(first + 2 * SEEDS_PER_PART, images, ()), to_remember),
    }
    records = {
        name: [
            _record(staging.path, scene, f"{name}-{number}", part, conversation)
            for number, scene in enumerate(scenes)
            for part, conversation in enumerate(conversations_of(scene))
        ]
        for name, (scenes, conversations_of) in parts.items()
    }
    train, test = records["train"] + records["other"], records["test"]
    for name, content in ((TRAIN, train), (TEST, test)):
        write_text(staging.path / name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    drawn = sorted(f"{IMAGES}/{path.name}" for path in (staging.path / IMAGES).iterdir())
    manifest = {**lesson, "conversations": len(train), "questions": len(test), "files": [TRAIN, TEST, *drawn]}
    write_json(staging.path / LESSON_MANIFEST, manifest)
    old = survey(folder).results
    staging.record(planned, publishing=True, replaces=[*old])
    publish(staging.path, folder, [IMAGES, LESSON_MANIFEST], [TEST, TRAIN], old, old_weights=[TRAIN, TEST])
    return manifest


def _scenes(first_seed: int, count: int, kinds: Sequence[str]) -> Iterator[Scene]:
    """Scenes with these objects in each, and in turn one to five objects in all."""
    for number in range(count):
        yield generate_scene(first_seed + number, size=IMAGE_SIZE, kinds=kinds, num_objects=1 + number % MAX_OBJECTS)


def to_learn(scene: Scene) -> list[Conversation]:
    """Where the object is, in both languages; what there is, with boxes and without; a question as about any scene."""
    rng = np.random.default_rng([scene.seed, 2])
    return [
        *(_where(scene, language, rng) for language in LANGUAGES),
        tasks.caption(scene, _language(rng), rng),
        tasks.what(scene, _language(rng), rng),
        *tasks.make_conversations(scene, rng, OTHER_CONVERSATIONS, _WITHOUT_CAPTIONS),
    ]


def to_remember(scene: Scene) -> list[Conversation]:
    """A caption, and what may be asked about any scene."""
    rng = np.random.default_rng([scene.seed, 2])
    return [
        tasks.caption(scene, _language(rng), rng),
        *tasks.make_conversations(scene, rng, CONVERSATIONS_WITHOUT, _WITHOUT_CAPTIONS),
    ]


def to_test(scene: Scene) -> list[Conversation]:
    """Where the object is, in one of the languages; what it is, if it stands alone."""
    rng = np.random.default_rng([scene.seed, 2])
    language = _language(rng)
    asked = [_where(scene, language, rng)]
    return asked + [tasks.what(scene, language, rng)] if len(scene.objects) == 1 else asked


def _language(rng: np.random.Generator) -> str:
    return LANGUAGES[int(rng.integers(len(LANGUAGES)))]


def _where(scene: Scene, language: str, rng: np.random.Generator) -> Conversation:
    subject = scene.objects[0]  # the kinds that a scene must have come first
    question = tasks.ask("refer", language, rng, kind=tasks.name(subject.kind, language))
    return Conversation("refer", language, ((question, tasks.grounded(subject, language)),), subject.kind)


def _record(folder: Path, scene: Scene, name: str, part: int, conversation: Conversation) -> dict[str, Any]:
    """A record of the original's schema; its image is drawn with the first part."""
    image = f"{IMAGES}/{name}.png"
    if part == 0:
        scene.pil().save(folder / image, format="PNG")
    turns = []
    for number, (question, answer) in enumerate(conversation.turns):
        shown = "" if number else f"Picture 1: <img>{image}</img>\n"
        turns += [{"from": "user", "value": shown + question}, {"from": "assistant", "value": answer}]
    return {"id": f"{name}-{part}", "conversations": turns}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=NAMES, metavar="OBJECT", help=f"what is to be learned: {' or '.join(NAMES)}")
    parser.add_argument("output_folder", metavar="OUTPUT_FOLDER")
    parser.add_argument(
        "--images", type=cli.positive, default=200, metavar="N", help="with the object (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other images (default: %(default)s)")
    cli.add_overwrite_option(parser)
    args = parser.parse_args(arguments)
    lesson = write_lesson(args.kind, args.output_folder, images=args.images, seed=args.seed, overwrite=args.overwrite)
    images = f"{args.images} images with and {args.images} without the object"
    print(f"{lesson.train}: {lesson.conversations} conversations about {images}")
    print(f"{lesson.test}: {lesson.questions} questions about {TEST_IMAGES} other images")
    return 0


if __name__ == "__main__":
    cli.run(main)
