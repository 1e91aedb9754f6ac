"""A benchmark of a few drawn images with questions, for tests of whatever runs benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from paddlemix.evaluation.benchmarks import Benchmark, Compat, Generation, Split
from paddlemix.evaluation.records import Answer, ImageRef, Question, Score
from paddlemix.evaluation.sampling import Shots

COLORS = ("red", "green", "blue", "yellow", "white", "gray")


def write_images(data_dir: Path) -> None:
    """An image of each color."""
    for color in COLORS:
        Image.new("RGB", (24, 24), color).save(data_dir / f"{color}.png")


def toy_benchmark(
    *, name: str = "toy", questions: int = 20, form: str = "chat", choices: Sequence[str] = (), is_scored: bool = True
) -> Benchmark:
    """Questions about the images in turn; an answer counts where it holds a ``<``."""

    def read(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
        return [
            Question(
                f"q{index}",
                name,
                split.name,
                (ImageRef(str(data_dir / f"{color}.png"), f"{color}.png"), f"What is {index}?"),
                ("bus",),
                tuple(choices),
            )
            for index in range(questions)
            for color in [COLORS[index % len(COLORS)]]
        ]

    def score(asked: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
        credit = {question.id: float("10" in answers[question.id].text) for question in asked}
        value = 100 * sum(credit.values()) / len(credit)
        return Score("toy score", value, "%", len(asked), (0.0, 100.0), per_question=credit)

    splits = {"test": Split("test", (), questions, len(COLORS), is_scored=is_scored, published={"Qwen-VL": 12.5})}
    generation = Generation(0, 0 if choices else 12, form)  # type: ignore[arg-type]
    return Benchmark(name, "Toy", splits, generation, "toy score", read, score)
