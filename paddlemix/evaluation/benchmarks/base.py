"""What a benchmark is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

from ...errors import EvaluationError
from ...utils.dependencies import require_installed
from ..data.files import collector_paused
from ..records import Answer, Question, Score
from ..sampling import Shots, sample

Compat = Optional[Literal["original"]]
"""None: the measure as it should be; ``"original"``: what the original's evaluation computes, with its quirks."""


@dataclass(frozen=True)
class Generation:
    """How the model answers.

    Attributes:
        min_new_tokens: before these the end token is forbidden.
        max_new_tokens: where an answer is cut; 0 for a choice by loss.
        form: ``"raw"``: the prompt as it is, no chat template; ``"chat"``: as the user's turn of a new conversation.
        keeps_tags: ``<ref>`` and ``<box>`` stay in the answer's text, otherwise no special token does.
        needs_logprob: the answer's log probability is wanted.
    """

    min_new_tokens: int = 0
    max_new_tokens: int = 0
    form: Literal["raw", "chat"] = "raw"
    keeps_tags: bool = False
    needs_logprob: bool = False


@dataclass(frozen=True)
class Split:
    """A part of a benchmark.

    Attributes:
        name: such as ``"val"``.
        files: below the data directory, what the reader opens first.
        questions: how many there are; None where unknown.
        images: how many different images there are; None where unknown.
        is_scored: the truth is public. False: the answers go to a server.
        train: the file that examples are drawn from; empty where there is none.
        published: model name (``"Qwen-VL"``, ``"Qwen-VL-Chat"``, with a protocol in brackets) -> published score.
        published_note: where the published score is of another split or protocol, in which it is.
    """

    name: str
    files: tuple[str, ...]
    questions: int | None = None
    images: int | None = None
    is_scored: bool = True
    train: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    published_note: str = ""


def refuse_shots(name: str, shots: Shots | None) -> None:
    """Raise EvaluationError where examples are asked for and the benchmark has none."""
    if shots is not None:
        raise EvaluationError(f"shots: got {shots.count}, but {name} is asked without examples; expected 0")


Reader = Callable[[Path, Split, Optional[Shots]], Sequence[Question]]
Scorer = Callable[[Sequence[Question], Mapping[str, Answer], Compat], Score]
SubmissionWriter = Callable[[Path, Sequence[Question], Mapping[str, Answer]], None]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the registry.

    Attributes:
        name: on the command line.
        title: in tables.
        splits: by name, the default one first.
        generation: how the model answers.
        metric: name of the measure.
        read: all questions of a split, in the order of the data file.
        score_answered: the score of questions that are all answered.
        write_submission: writes the file that the benchmark's server takes, checked; None where there is no server.
        submission_suffix: of that file's name.
        allows_samples: a score of a part of the questions may stand beside a published one.
        needs: packages (import names) that scoring or a submission needs; missed before a model is asked.
        is_judged: a judge compares each answer with ``metadata["gpt4_ha_answer"]``, given
            ``metadata["human_annotation"]`` and ``metadata["question"]``; ``metadata["category"]`` has categories with
            commas between them (:mod:`..judge`). ``score_answered`` is then not called.
    """

    name: str
    title: str
    splits: Mapping[str, Split]
    generation: Generation
    metric: str
    read: Reader
    score_answered: Scorer
    write_submission: SubmissionWriter | None = None
    submission_suffix: str = ".json"
    allows_samples: bool = True
    is_judged: bool = False
    needs: tuple[str, ...] = ()

    def split(self, name: str | None = None) -> Split:
        """The split of a name; the default one for None.

        Raises:
            EvaluationError: there is none of that name.
        """
        if name is None:
            return next(iter(self.splits.values()))
        if name not in self.splits:
            raise EvaluationError(f"split: {self.name} has no {name!r}, expected one of: {', '.join(self.splits)}")
        return self.splits[name]

    def questions(
        self,
        data_dir: Path,
        split: str | None = None,
        *,
        limit: int | None = None,
        seed: int = 0,
        shots: int = 0,
        compat: Compat = None,
    ) -> list[Question]:
        """The questions of a split.

        Args:
            data_dir: holds what the split's ``files`` name.
            split: its name; None: the default one.
            limit: at most so many groups of questions, drawn by a hash of ``seed`` and the group: the same for
                everyone, and a larger limit keeps those of a smaller one.
            seed: of that draw and of the examples.
            shots: examples with their answers before each question, from the training part, never of the same image.
            compat: ``"original"`` draws the examples as one process of the original does.

        Raises:
            EvaluationError: a file is missing, damaged, or holds what cannot be a question.
            MissingDependencyError: a package that its score needs is not installed.
        """
        for package in self.needs:
            require_installed(package, self.title)
        chosen = self.split(split)
        drawn = Shots(shots, seed, as_original=compat == "original") if shots else None
        with collector_paused():
            questions = self.read(data_dir, chosen, drawn)
        return list(questions) if limit is None else sample(questions, limit, seed)

    def score(
        self,
        questions: Sequence[Question],
        answers: Mapping[str, Answer],
        *,
        compat: Compat = None,
        partial: bool = False,
    ) -> Score:
        """The score of answers.

        Args:
            questions: all that were to be answered.
            answers: by question id.
            compat: ``"original"``: with the original's quirks.
            partial: score the questions that are answered, for a run under way.

        Raises:
            EvaluationError: an answer is missing or to a question that is not there, or the truth is not public.
        """
        known = {question.id for question in questions}
        unknown = [answer for answer in answers if answer not in known]
        if unknown:
            raise EvaluationError(
                f"answers: {len(unknown)} are to questions that {self.name} does not have here, the first is "
                f"{unknown[0]!r}; expected those of the same split and sample"
            )
        answered = [question for question in questions if question.id in answers]
        if not partial and len(answered) < len(questions):
            missing = next(question.id for question in questions if question.id not in answers)
            raise EvaluationError(
                f"answers: {len(questions) - len(answered)} of {len(questions)} questions have none, the first is "
                f"{missing!r}; finish the run, or score with partial"
            )
        if partial:
            # Questions that count together are scored together.
            open_groups = {question.group for question in questions if question.group and question.id not in answers}
            answered = [question for question in answered if question.group not in open_groups]
        if not answered:
            raise EvaluationError(f"answers: got none, expected those to {len(questions)} questions of {self.name}")
        if not self.split(answered[0].split).is_scored:
            raise EvaluationError(
                f"split: the truth of {self.name} {answered[0].split} is not public; export the answers for its server"
            )
        return self.score_answered(answered, answers, compat)
