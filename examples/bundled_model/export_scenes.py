"""Draw scenes that no training has seen, as the files of the benchmark ``scenes``.

    python examples/bundled_model/export_scenes.py --data_dir data
    paddlemix evaluate run scenes --data_dir data

The same scenes at every call, and those that evaluate.py asks about: one for each question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# A checkout works without being installed.
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
if (_CHECKOUT / "paddlemix" / "errors.py").is_file():
    sys.path.insert(0, str(_CHECKOUT))

from examples.bundled_model.scenes import tasks  # noqa: E402
from examples.bundled_model.scenes.evaluate import TASKS, questions  # noqa: E402
from examples.bundled_model.scenes.scoring import Question  # noqa: E402
from paddlemix.cli import common as cli  # noqa: E402
from paddlemix.evaluation.data.convert.write import write_lines  # noqa: E402
from paddlemix.evaluation.data.files import PREFIX  # noqa: E402

FILE = "scenes/test.jsonl"
REFER = "refer"
EXPORTED = (REFER, "what (one object)", "count", "color", "left or right", "word")
"""Tasks with one question about one scene, and one right answer."""


def records(data_dir: Path, count: int) -> Iterator[dict]:
    """A record for each question; its scene is drawn into ``data_dir``."""
    (data_dir / "scenes" / "images").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        if task.name in EXPORTED:
            for language in tasks.LANGUAGES:
                for number, question in enumerate(questions(task, language, count)):
                    slug = task.name.split(" (")[0].replace(" ", "_")
                    yield record(data_dir, f"{slug}_{language}_{number}", task.name, language, question)


def record(data_dir: Path, name: str, task: str, language: str, question: Question) -> dict:
    (scene,) = question.scenes
    image = scene.pil()
    image.save(data_dir / "scenes" / "images" / f"{name}.png")
    result = {"image": f"{PREFIX}scenes/images/{name}.png", "question": question.text, "task": task}
    result["language"] = language
    if task != REFER:
        return {**result, "answer": question.expected}
    box = next(placed.box for placed in scene.objects if placed.kind == question.subject)
    width, height = image.size
    pixels = [round(side * size, 2) for side, size in zip(box, (width, height, width, height))]
    return {**result, "bbox": pixels, "width": width, "height": height}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--count", type=cli.positive, default=50, metavar="N", help="questions per task and language (default: 50)"
    )
    options = parser.parse_args(arguments)
    written = write_lines(options.data_dir / FILE, records(options.data_dir, options.count))
    cli.output(f"{options.data_dir / FILE}: {written} questions")
    return 0


if __name__ == "__main__":
    cli.run(main)
