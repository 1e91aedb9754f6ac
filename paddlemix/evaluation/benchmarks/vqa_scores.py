"""Scores of questions with short answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..metrics.anls import anls
from ..metrics.exact_match import exact_match
from ..metrics.gqa import official_measures, shorten
from ..metrics.relaxed_accuracy import relaxed_accuracy
from ..metrics.vqa_accuracy import Variant, vqa_accuracy
from ..records import Answer, Question, Score
from .base import Compat
from .scoring import percentage
from .vqa_data import KINDS

_VARIANTS: dict[Variant, str] = {
    "official": "VQA accuracy",
    "textvqa": "VQA accuracy (TextVQA's processor)",
    "original": "VQA accuracy (original's evaluator)",
}

Credit = Callable[[Question, Answer, bool], float]
"""(question, answer, as_original) -> credit between 0 and 1."""


def score_vqa(variant: Variant, questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """VQA accuracy; the other evaluators' numbers stand beside it."""
    used = "original" if compat == "original" else variant
    table = {
        measure: {q.id: vqa_accuracy(answers[q.id].text, q.references, measure) for q in questions}
        for measure in dict.fromkeys((used, variant, *_VARIANTS))
    }
    categories = {
        q.id: [f"{kind.replace('_', ' ')}: {q.metadata[kind]}" for kind in KINDS if kind in q.metadata]
        for q in questions
    }
    others = {_VARIANTS[measure]: _percent(credits.values()) for measure, credits in table.items() if measure != used}
    return percentage(_VARIANTS[used], table[used], categories=categories, others=others)


def score_by_credit(
    name: str,
    credit: Credit,
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
    compat: Compat,
) -> Score:
    """The mean of credits, beside what the original computes, or the other way round."""
    as_original = compat == "original"
    credits = {q.id: credit(q, answers[q.id], as_original) for q in questions}
    other = [credit(q, answers[q.id], not as_original) for q in questions]
    beside = f"{name} ({'as defined' if as_original else 'original'})"
    return percentage(name, credits, others={beside: _percent(other)})


def anls_credit(question: Question, answer: Answer, as_original: bool) -> float:
    """ANLS of an answer."""
    return anls(answer.text, question.references, as_original=as_original)


def relaxed_credit(question: Question, answer: Answer, as_original: bool) -> float:
    """Relaxed accuracy of an answer."""
    return relaxed_accuracy(answer.text, question.references, as_original=as_original)


def gqa_credit(question: Question, answer: Answer, as_original: bool) -> float:
    """Exact match of a shortened answer."""
    return exact_match(shorten(answer.text, as_original=as_original), question.references)


def score_chartqa(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Relaxed accuracy: the mean over both halves, each on its own as well."""
    whole = score_by_credit("relaxed accuracy", relaxed_credit, questions, answers, compat)
    categories = {q.id: [q.metadata["half"]] for q in questions}
    score = percentage(whole.name, whole.per_question, categories=categories, others=whole.others)
    if len({part.n for part in score.by_category.values()}) == 1:
        return score
    halves = sum(part.value for part in score.by_category.values()) / len(score.by_category)
    note = "The halves have different numbers of questions here: the mean of both is given beside."
    others = {**whole.others, "mean of halves": halves}
    return percentage(whole.name, whole.per_question, categories=categories, others=others, notes=[note])


def score_gqa(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Accuracy of the shortened answer, with the official measures where the data set's question file is there."""
    score = score_by_credit("accuracy", gqa_credit, questions, answers, compat)
    records = {q.id: q.metadata["record"] for q in questions if q.metadata.get("record")}
    others = dict(score.others)
    others["accuracy (raw answer)"] = _percent([float(answers[q.id].text == q.references[0]) for q in questions])
    categories = {}
    if len(records) == len(questions):
        given = {q.id: shorten(answers[q.id].text, as_original=compat == "original") for q in questions}
        measures = official_measures(records, given)
        others |= {name: measures[name] for name in ("binary", "open", "consistency", "distribution")}
        categories = {
            id_: [f"{kind}: {record['types'][kind]}" for kind in ("structural", "semantic")]
            for id_, record in records.items()
        }
    return percentage(score.name, score.per_question, categories=categories, others=others)


def _percent(credits: Iterable[float]) -> float:
    credits = list(credits)
    return 100 * sum(credits) / len(credits)


def score_exact_match(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Exact match; the original computes the same."""
    return percentage("exact match", {q.id: exact_match(answers[q.id].text, q.references) for q in questions})
