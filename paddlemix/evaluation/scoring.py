"""Scores from the files of answers alone: no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import EvaluationError, OutputError
from ..utils.files import write_json
from .answer_files import read_folder
from .benchmarks import Benchmark
from .judge import judged_score
from .progress import score_text
from .records import Answer, Question, Score
from .sampling import sample
from .settings import Settings, fingerprint
from .tasks import questions_of

SCORE_FILE = "score.json"


@dataclass(frozen=True)
class Result:
    """A benchmark's score and what it belongs to.

    Attributes:
        benchmark: of the registry.
        split: its name.
        questions: that count.
        answers: to them, by id.
        score: None where the truth is not public.
        original: the same as the original computes it; None where it was not asked for.
        total: questions of the split; a sample has fewer.
        settings: of the run.
        notes: what a reader must know, a sentence each.
    """

    benchmark: Benchmark
    split: str
    questions: Sequence[Question]
    answers: Mapping[str, Answer]
    score: Score | None
    original: Score | None
    total: int
    settings: Settings
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.benchmark.name} {self.split}"

    @property
    def is_sample(self) -> bool:
        """Whether it is a part of the split's questions."""
        return len(self.questions) < self.total

    @property
    def published(self) -> Mapping[str, float]:
        """Published scores that may stand beside this one, by model."""
        may_stand = self.benchmark.allows_samples or not self.is_sample
        return self.benchmark.split(self.split).published if may_stand else {}

    @property
    def protocol(self) -> str:
        """How the answers came about, in a few words."""
        generation, shots = self.benchmark.generation, self.settings.get("shots", 0)
        words = ["raw prompt" if generation.form == "raw" else "conversation"]
        words.append("greedy" if generation.max_new_tokens else "choice by loss")
        if shots:
            words.append(f"{shots}-shot")
        if "imported" in self.settings:
            words = ["imported"]
        if "server" in self.settings:
            words[0] = "server, raw prompt" if self.settings.get("api") == "completions" else "server's own template"
        return ", ".join(words)


def score_folder(folder: Path, data_dir: Path, *, compat: bool = False, partial: bool = False) -> Result:
    """Score a run.

    Args:
        folder: with the answers of all shards.
        data_dir: with the benchmark's files, for the truth.
        compat: compute the original's score, too.
        partial: score what is answered of a run under way.

    Raises:
        EvaluationError: there are no answers, they are damaged, incomplete or of other data, or the truth is missing.
    """
    stored = read_folder(folder)
    if stored.settings is None:
        raise EvaluationError(f"{folder}: it has no answers; expected a folder that `paddlemix evaluate run` wrote")
    benchmark, split, everything = questions_of(stored, data_dir, str(folder))
    limit = stored.sample.get("limit")
    questions = everything if limit is None else sample(everything, limit, stored.sample.get("seed", 0))
    answers = stored.answers
    if limit is not None:  # a larger sample may have been begun before
        kept = {question.id for question in questions}
        known = {question.id for question in everything}
        answers = {name: answer for name, answer in answers.items() if name in kept or name not in known}
    notes = list(stored.notes)
    score = original = None
    if benchmark.is_judged:
        if len(answers) < len(questions) and not partial:
            raise EvaluationError(
                f"{folder}: {len(questions) - len(answers):,} of {len(questions):,} questions have no answer; finish "
                "the run, or score with --partial"
            )
        score = judged_score(folder, questions, answers)
        original = judged_score(folder, questions, answers, as_original=True) if compat else None
        if score is None:
            notes.append("no answer was judged yet; `paddlemix evaluate judge` asks a judge")
    elif benchmark.split(split).is_scored:
        score = benchmark.score(questions, answers, partial=partial)
        original = benchmark.score(questions, answers, compat="original", partial=partial) if compat else None
    else:
        notes.append("the truth of this split is not public; `paddlemix evaluate export` writes its server's file")
    if partial and len(answers) < len(questions):
        notes.append(f"{len(answers):,} of {len(questions):,} questions are answered so far")
        questions = [question for question in questions if question.id in answers]
    total = len(everything)
    return Result(benchmark, split, questions, answers, score, original, total, stored.settings, tuple(notes))


def write_result(folder: Path, result: Result) -> Path:
    """Write everything about a score into the run's folder; its path.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / SCORE_FILE
    try:
        write_json(path, as_json(result))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def export(folder: Path, data_dir: Path, path: Path | None = None) -> Path:
    """Write the file that a benchmark's server takes; its path.

    Args:
        folder: with the answers of all shards, to all questions.
        data_dir: with the benchmark's files.
        path: of the file; ``submission`` in the folder where None.

    Raises:
        EvaluationError: as :func:`score_folder`, or the benchmark has no server.
    """
    stored = read_folder(folder)
    benchmark, split, questions = questions_of(stored, data_dir, str(folder))
    if benchmark.write_submission is None:
        raise EvaluationError(f"{benchmark.name}: no server takes its answers; `paddlemix evaluate score` scores them")
    missing = [question.id for question in questions if question.id not in stored.answers]
    if missing:
        raise EvaluationError(
            f"{folder}: {len(missing):,} of {len(questions):,} questions of {split} have no answer, the first is "
            f"{missing[0]!r}; a server takes all or none"
        )
    target = folder / f"submission{benchmark.submission_suffix}" if path is None else path
    benchmark.write_submission(target, questions, stored.answers)
    return target


def as_json(result: Result) -> dict[str, Any]:
    """A result as a JSON object."""
    return {
        "benchmark": result.benchmark.name,
        "split": result.split,
        "metric": result.benchmark.metric,
        "protocol": result.protocol,
        "score": None if result.score is None else asdict(result.score),
        "original": None if result.original is None else asdict(result.original),
        "published": dict(result.published),
        "published_note": result.benchmark.split(result.split).published_note,
        "questions": len(result.questions),
        "of": result.total,
        "fingerprint": fingerprint(result.settings),
        "settings": result.settings,
        "notes": list(result.notes),
    }


def table(results: Sequence[Result]) -> str:
    """Scores beside the published ones, as text with aligned columns."""
    rows: list[tuple[str, ...]] = [
        ("benchmark", "questions", "score (95 % interval)", "as the original", "published", "protocol")
    ]
    rows += [row_of(result) for result in results]
    if not any(result.original for result in results):
        rows = [(*row[:3], *row[4:]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for result in results:
        notes = [
            *result.notes,
            *(result.score.notes if result.score else ()),
            result.benchmark.split(result.split).published_note,
        ]
        lines += [f"{result.title}: {text}" for text in notes if text]
        if result.score is not None and result.score.others:
            others = ", ".join(f"{name} {value:.2f}" for name, value in result.score.others.items())
            lines.append(f"{result.title}: {others}")
    return "\n".join(lines)


def row_of(result: Result) -> tuple[str, ...]:
    """The cells of a result: title, questions, score, the original's, published, protocol."""
    count = f"{len(result.questions):,}" + (f" of {result.total:,}" if result.is_sample else "")
    published = ", ".join(f"{model} {value:g}" for model, value in result.published.items()) or "–"
    return (
        result.title,
        count,
        "–" if result.score is None else score_text(result.score),
        "–" if result.original is None else score_text(result.original),
        published + (" (not of a sample)" if result.published and result.is_sample else ""),
        result.protocol,
    )
