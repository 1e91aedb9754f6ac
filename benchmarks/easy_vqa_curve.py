"""Fine-tune the bundled model on the training part of easy-VQA, and measure it on the test part on the way.

    python benchmarks/easy_vqa_curve.py runs/easy-vqa --steps 300 --figure docs/images/easy_vqa_curve.svg

Every step of it is a command of the project: ``paddlemix finetune`` on records made here, ``paddlemix evaluate run`` on
each checkpoint. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CONFIG = {
    "mode": "full",
    "freeze": [],
    "max_length": 1024,
    "per_device_train_batch_size": 16,
    "group_by_length": True,
    "learning_rate": 5e-4,
    "warmup_ratio": 0.05,
    "image_check": "header",
    "save_total_limit": 100,
    "dataloader_num_workers": 0,
}


def write_records(path: Path) -> None:
    """A conversation for each image of the training part, its questions in random order."""
    from easy_vqa import get_train_image_paths, get_train_questions

    questions, answers, images = get_train_questions()
    paths = get_train_image_paths()
    by_image = defaultdict(list)
    for question, answer, image in zip(questions, answers, images):
        by_image[image].append((question, answer))
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for image, turns in sorted(by_image.items()):
            generator.shuffle(turns)
            messages = [
                {"role": role, "content": text}
                for question, answer in turns
                for role, text in (("user", question), ("assistant", answer))
            ]
            first = [{"type": "image", "image": paths[image]}, {"type": "text", "text": turns[0][0]}]
            messages[0] = {"role": "user", "content": first}
            file.write(json.dumps({"messages": messages}) + "\n")


def paddlemix(*arguments: str) -> None:
    """Run a command of the project."""
    print("paddlemix", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "paddlemix", *arguments], check=True, cwd=ROOT)


def measure(model: str, folder: Path, limit: int | None) -> dict[str, object]:
    """The score of a model: a file of an earlier call, or a run."""
    limits = [] if limit is None else ["--limit", str(limit)]
    paddlemix("evaluate", "run", "easy-vqa", "--model", model, "--output_dir", str(folder), *limits)
    score: dict[str, object] = json.loads((folder / "easy-vqa-test" / "score.json").read_text())["score"]
    return score


def draw(points: list[tuple[int, dict[str, object]]], path: Path) -> None:
    """The curve with its 95 % intervals, of all questions and of each kind."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "easy-vqa"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    steps = [step for step, _ in points]
    scores = [score for _, score in points]
    axes.fill_between(steps, *zip(*(score["interval"] for score in scores)), alpha=0.2, color="#2563eb", linewidth=0)
    axes.plot(steps, [score["value"] for score in scores], "o-", color="#2563eb", label="all questions")
    for kind, color in (("yes or no", "#0f766e"), ("color", "#c2410c"), ("shape", "#7c3aed")):
        values = [score["by_category"][kind]["value"] for score in scores]
        axes.plot(steps, values, "--", color=color, linewidth=1, label=kind)
    axes.set(xlabel="steps of fine-tuning, 16 images each", ylabel="exact match, %", ylim=(0, 100), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50, help="steps between two measurements")
    parser.add_argument("--limit", type=int, default=1000, help="questions of each but the last, which has all")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "train.jsonl")
    config = {**CONFIG, "max_steps": options.steps, "save_steps": options.every}
    (folder / "finetune.json").write_text(json.dumps(config, indent=2))
    model = folder / "model"
    paddlemix(
        "finetune", str(folder / "finetune.json"), "--data", str(folder / "train.jsonl"), "--output_dir", str(model)
    )
    checkpoints = {step: model / f"checkpoint-{step}" for step in range(options.every, options.steps, options.every)}
    points = [(0, measure("paddlemix/qwen-vl-scenes", folder / "step-0", options.limit))]
    points += [(step, measure(str(path), folder / f"step-{step}", options.limit)) for step, path in checkpoints.items()]
    points.append((options.steps, measure(str(model), folder / f"step-{options.steps}", None)))
    for step, score in points:
        low, high = score["interval"]
        print(f"{step:5} steps: {score['value']:.2f} % ({low:.1f} to {high:.1f}) of {score['n']} questions")
    if options.figure is not None:
        draw(points, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
