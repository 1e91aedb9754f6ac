"""What a run has to do, found out before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EvaluationError
from .answer_files import Stored
from .backends.base import Backend, Rates
from .benchmarks import Benchmark, Compat, get_benchmark
from .records import Question
from .sampling import sample
from .settings import Settings, benchmark_settings, questions_digest
from .shards import Shard, by_image, image_of

Note = Callable[[str], None]
"""Takes a line for whoever watches."""

_FEW_TOKENS = 8
"""Tokens of an answer, before there is one to count those of."""


@dataclass(frozen=True)
class RunOptions:
    """Which questions are asked.

    Attributes:
        data_dir: holds the benchmarks' files.
        output_dir: gets a folder for each benchmark.
        limit: at most so many questions (groups of them) of each, drawn by hash; None for all.
        seed: of that draw and of the examples.
        shots: examples before each question.
        compat: ``"original"`` draws examples as the original does.
        shard: the part of this process.
    """

    data_dir: Path
    output_dir: Path
    limit: int | None = None
    seed: int = 0
    shots: int = 0
    compat: Compat = None
    shard: Shard = field(default_factory=Shard)

    @property
    def sample(self) -> dict[str, int | None]:
        """What the files of answers say about the draw."""
        return {"limit": self.limit, "seed": self.seed}


@dataclass(frozen=True)
class Task:
    """A split of a benchmark to be answered.

    Attributes:
        benchmark: of the registry.
        split: its name.
        questions: of the sample and of this shard, in the order in which they are asked.
        sample_size: questions of the sample, over all shards.
        settings: of the benchmark.
        folder: for answers and score.
    """

    benchmark: Benchmark
    split: str
    questions: Sequence[Question]
    sample_size: int
    settings: Settings
    folder: Path

    @property
    def title(self) -> str:
        """For lines about it."""
        return f"{self.benchmark.name} {self.split}"

    @property
    def images(self) -> int:
        """Different images that are asked about."""
        return len({image_of(question) for question in self.questions})


def split_name(text: str) -> tuple[Benchmark, str]:
    """The benchmark and split of ``gqa`` or ``refcoco:testA``.

    Raises:
        EvaluationError: there is no such benchmark or split.
    """
    name, _, split = text.partition(":")
    benchmark = get_benchmark(name)
    return benchmark, benchmark.split(split or None).name


def make_task(text: str, options: RunOptions) -> Task:
    """Read the data of a benchmark.

    Args:
        text: as of :func:`split_name`.
        options: of the run.

    Raises:
        EvaluationError: the data is missing or damaged, or images are.
    """
    benchmark, split = split_name(text)
    everything = benchmark.questions(
        options.data_dir, split, seed=options.seed, shots=options.shots, compat=options.compat
    )
    settings = benchmark_settings(
        benchmark, split, everything, options.shots, options.seed, options.compat == "original"
    )
    drawn = everything if options.limit is None else sample(everything, options.limit, options.seed)
    questions = by_image(options.shard.select(drawn))
    check_images(questions, f"{benchmark.name} {split}")
    folder = options.output_dir / f"{benchmark.name}-{split}"
    return Task(benchmark, split, questions, len(drawn), settings, folder)


def questions_of(stored: Stored, data_dir: Path, where: str) -> tuple[Benchmark, str, list[Question]]:
    """All questions of the split that answers belong to.

    Raises:
        EvaluationError: they are of a benchmark that is not there, or of other data.
    """
    settings = stored.settings or {}
    benchmark, split = get_benchmark(str(settings.get("benchmark"))), str(settings.get("split"))
    questions = benchmark.questions(
        data_dir,
        split,
        seed=settings.get("seed", 0),
        shots=settings.get("shots", 0),
        compat="original" if settings.get("draw") == "as the original" else None,
    )
    digest = questions_digest(questions)
    if digest != settings.get("data"):
        raise EvaluationError(
            f"{where}: its answers are to other questions than those in {data_dir} (data {settings.get('data')!r}, "
            f"there it is {digest!r}); use the files of the run"
        )
    return benchmark, split, questions


def check_images(questions: Iterable[Question], what: str) -> None:
    """Refuse questions whose images are not there.

    Raises:
        EvaluationError: it names how many and the first.
    """
    paths = dict.fromkeys(image.path for question in questions for image in question.images)
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise EvaluationError(
            f"{what}: {len(missing)} of {len(paths)} images are missing, the first is {missing[0]}; "
            "`paddlemix evaluate data` says where they belong"
        )


def plan_line(task: Task, answered: int, rates: Rates | None) -> str:
    """How much a task is and how long it takes."""
    left = len(task.questions) - answered
    line = f"{task.title}: {len(task.questions):,} questions about {task.images:,} images"
    if len(task.questions) < task.sample_size:
        line += f" (of {task.sample_size:,}; the other shards have the rest)"
    if answered:
        line += f", {answered:,} answered already"
    if rates is not None and left:
        tokens = min(_FEW_TOKENS, task.benchmark.generation.max_new_tokens)
        images = round(task.images * left / len(task.questions))
        line += f"; about {duration(rates.seconds(left, images, tokens))}"
        line += f" ({rates.new_image:.2g} s for a new image, {rates.same_image:.2g} s for one known"
        line += f", {rates.token:.2g} s a token, one at a time)" if tokens else ", one at a time)"
    return line


def measured_rates(task: Task, backend: Backend) -> Rates:
    """Rates by questions of a task; its answers are not kept.

    Raises:
        EvaluationError: they cannot be answered.
    """
    first = task.questions[0]
    other = next((question for question in task.questions if image_of(question) != image_of(first)), first)
    return backend.rates([first, other], task.benchmark.generation)


def duration(seconds: float) -> str:
    """A time as people say it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def refuse_doubles(names: Sequence[str]) -> None:
    """Raise EvaluationError where a benchmark's split stands twice."""
    splits = [split_name(name) for name in names]
    for index, (benchmark, split) in enumerate(splits):
        if (benchmark, split) in splits[:index]:
            raise EvaluationError(f"benchmark: {benchmark.name}:{split} stands twice")
