"""What evaluation passes around: questions, the model's answers, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Union

from ..errors import EvaluationError


@dataclass(frozen=True)
class ImageRef:
    """An image within a prompt.

    Attributes:
        path: file that holds the image: what a data file says, resolved by its reader.
        name: as the data file spells it; the original writes this into its prompt.
    """

    path: str
    name: str


Prompt = tuple[Union[str, ImageRef], ...]
"""Text and images in order. Text is data: what looks like a control token in it is none."""


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: unique within the benchmark's split.
        benchmark: name in the registry.
        split: of the benchmark.
        prompt: what the model is asked.
        references: accepted answers; empty where the truth is hidden or is no text.
        choices: continuations among which the smallest mean loss chooses, such as ``" A"``; empty for generation.
        group: questions that count together (rotations, the two questions about an image): samples keep groups whole.
        metadata: what the metric and the submission need beyond that, by the names of the data file.
    """

    id: str
    benchmark: str
    split: str
    prompt: Prompt
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The images of the prompt, in order."""
        return tuple(part for part in self.prompt if isinstance(part, ImageRef))

    @property
    def image(self) -> ImageRef | None:
        """The image that is asked about: the last one of the prompt, as examples come before it."""
        return self.images[-1] if self.images else None


@dataclass(frozen=True)
class Answer:
    """What the model gave for a question.

    Attributes:
        id: of the question.
        text: decoded without special tokens; empty for a choice by loss.
        tokens: number of new tokens.
        logprob: sum of the log probabilities of the new tokens; None where they are not known.
        losses: mean cross-entropy of each of the question's choices; empty for generation.
        finish_reason: ``"stop"``, ``"length"`` or ``"choice"``.
    """

    id: str
    text: str = ""
    tokens: int = 0
    logprob: float | None = None
    losses: tuple[float, ...] = ()
    finish_reason: str = "stop"

    def to_json(self) -> dict[str, Any]:
        """As an object of a JSON line."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Answer:
        """The answer in a JSON line; fields that others wrote beside it are passed over.

        Raises:
            EvaluationError: a field is missing or of another type.
        """
        if not isinstance(record.get("id"), str):
            raise EvaluationError(f"id: got {record.get('id')!r}, expected the id of a question, a text")
        text, losses, logprob = record.get("text", ""), record.get("losses") or (), record.get("logprob")
        if not isinstance(text, str):
            raise EvaluationError(f"text of answer {record['id']}: got {type(text).__name__}, expected a text")
        if not isinstance(losses, (list, tuple)) or not all(_is_number(loss) for loss in losses):
            raise EvaluationError(f"losses of answer {record['id']}: got {losses!r}, expected a list of numbers")
        if logprob is not None and not _is_number(logprob):
            raise EvaluationError(f"logprob of answer {record['id']}: got {logprob!r}, expected a number or null")
        tokens, finish_reason = record.get("tokens", 0), record.get("finish_reason", "stop")
        return cls(record["id"], text, tokens, logprob, tuple(losses), finish_reason)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Score:
    """A result.

    Attributes:
        name: of the measure, such as ``"VQA accuracy"``.
        value: in ``unit``.
        unit: ``"%"``, or ``"points"`` where the scale is the benchmark's own.
        n: questions that count.
        interval: 95 % confidence interval of ``value``; None where there is none to give.
        by_category: the same measure of parts, each with its ``n``.
        per_question: credit by question id, 0 to 1 unless the measure has another scale; for lists of the worst.
        others: further measures of the same answers, by name, to be printed beside.
        notes: what a reader must know about the number, a sentence each.
    """

    name: str
    value: float
    unit: str
    n: int
    interval: tuple[float, float] | None = None
    by_category: Mapping[str, Score] = field(default_factory=dict)
    per_question: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
