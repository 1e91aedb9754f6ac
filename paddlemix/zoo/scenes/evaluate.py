"""Measures a model on unseen scenes, beside two baselines.

*No picture*: the same model answers the same question about an evenly grey picture.
*Constant*: what can be had without looking. For ``refer`` a box in the centre; for ``caption`` the model's own names,
each with a box in the centre; for the other tasks the one answer that is right most often over the questions asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from PIL import Image

from . import scoring, tasks
from .scene import MAX_OBJECTS, Scene, generate_scene
from .scoring import Question, Tallies

AnswerFunction = Callable[[list[Image.Image], list[str]], list[str]]
"""Answers one question about each picture; the lists have the same length."""

FIRST_SEED = 2**40  # training stays below 2**31
SEEDS_PER_GROUP = 2**24
GREY = (128, 128, 128)
CENTRE_BOX = (0.37, 0.37, 0.63, 0.63)  # 0.26 is the mean of the longest sides


@dataclass(frozen=True)
class Task:
    """A part of the table: which scenes are asked about, by which task of :mod:`tasks`, and how answers are scored."""

    name: str
    ask: Callable[[Scene, str, np.random.Generator], tasks.Conversation | None]
    score: Callable[[Question, str], Tallies]
    scene: Callable[..., Scene]
    objects: tuple[int, ...] = tuple(range(1, MAX_OBJECTS + 1))  # numbers of objects, evenly


TASKS: tuple[Task, ...] = (
    Task("refer", tasks.refer, scoring.score_refer, generate_scene),
    Task("caption", tasks.caption, scoring.score_caption, generate_scene),
    Task("what (one object)", tasks.what, scoring.score_what_one, generate_scene, objects=(1,)),
    Task("what (2–5 objects)", tasks.what, scoring.score_what_list, generate_scene, objects=(2, 3, 4, 5)),
    Task("count", tasks.count, scoring.score_count, generate_scene),
    Task("colour", tasks.colour, scoring.score_colour, generate_scene),
    Task("left or right", tasks.relation, scoring.score_relation, generate_scene, objects=(2, 3, 4, 5)),
    Task("word", tasks.word, scoring.score_word, partial(generate_scene, sign=True)),
)


@dataclass(frozen=True)
class Result:
    """One metric of one task in one language; scores are in [0, 1]."""

    task: str
    metric: str
    language: str
    score: float
    no_picture: float
    constant: float
    questions: int


def questions(task: Task, language: str, count: int, size: int = 168, style: str | None = None) -> Iterator[Question]:
    """``count`` questions, each about a scene of its own that no training has seen; the same ones at every call."""
    group = TASKS.index(task) * len(tasks.LANGUAGES) + tasks.LANGUAGES.index(language)
    seed, made = FIRST_SEED + group * SEEDS_PER_GROUP, 0
    while made < count:
        n = task.objects[made % len(task.objects)]
        scene = task.scene(seed, size=size, num_objects=n, style=style)
        conversation = task.ask(scene, language, np.random.default_rng([seed, 2]))
        seed += 1
        if conversation is None:
            continue
        made += 1
        question, expected = conversation.turns[0]
        yield Question(scene, question, expected, conversation.subject)


def _ask_all(answer: AnswerFunction, pictures: Sequence[Image.Image], texts: Sequence[str], batch: int) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(texts), batch):
        part = slice(start, start + batch)
        answers += answer(list(pictures[part]), list(texts[part]))
    return answers


def _without_picture(answer: AnswerFunction, texts: Sequence[str], size: int, batch: int) -> list[str]:
    """Answers about a grey picture; each different question is asked once."""
    distinct = list(dict.fromkeys(texts))
    grey = [Image.new("RGB", (size, size), GREY)] * len(distinct)
    known = dict(zip(distinct, _ask_all(answer, grey, distinct, batch)))
    return [known[text] for text in texts]


def _totals(task: Task, asked: Sequence[Question], answers: Sequence[str]) -> Tallies:
    totals: Tallies = {}
    for question, answer in zip(asked, answers):
        for metric, (points, out_of) in task.score(question, answer).items():
            before = totals.get(metric, (0.0, 0.0))
            totals[metric] = (before[0] + points, before[1] + out_of)
    return totals


def _reading_order(item: tuple[str, tuple[float, float]]) -> tuple[int, str]:
    """``1 object`` … ``5 objects`` before ``1–3 objects``, recall before precision."""
    metric = item[0]
    return len(metric.split()[0]), metric


def _ratio(tally: tuple[float, float]) -> float:
    return tally[0] / tally[1] if tally[1] else 0.0


def _constant_answers(task: Task, asked: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Metric -> score of the *constant* baseline of this module's docstring."""
    centre = tasks.box_tag(CENTRE_BOX)
    if task.name == "refer":
        candidates = [[centre] * len(asked)]
    elif task.name == "caption":
        named = [[name for name, _ in scoring.named_boxes_in(answer)] for answer in answers]
        candidates = [["".join(f"<ref>{name}</ref>{centre}" for name in names) for names in named]]
    else:
        candidates = [[text] * len(asked) for text in dict.fromkeys(_shortest_answer(task, item) for item in asked)]
    totals = [_totals(task, asked, candidate) for candidate in candidates]
    return {metric: max(_ratio(total.get(metric, (0.0, 0.0))) for total in totals) for metric in totals[0]}


def _shortest_answer(task: Task, question: Question) -> str:
    """The part of an expected answer that is scored, so that few different ones are left to try."""
    if task.ask is tasks.what:
        return scoring.names_in(question.expected)[0]
    return question.expected


def evaluate(
    answer: AnswerFunction,
    *,
    count: int = 500,
    size: int = 168,
    style: str | None = None,
    batch: int = 32,
    only: Sequence[Task] = TASKS,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Asks ``count`` questions per task and language and scores the answers.

    Args:
        answer: see :data:`AnswerFunction`; called with at most ``batch`` pictures (RGB, ``size`` pixels a side).
        style: draws all objects in this style, otherwise in all of ``lexicon.STYLES``.
        progress: told one line after each task and language.
    """
    results: list[Result] = []
    for task in only:
        for language in tasks.LANGUAGES:
            asked = list(questions(task, language, count, size, style))
            texts = [question.text for question in asked]
            answers = _ask_all(answer, [question.scene.pil() for question in asked], texts, batch)
            blind = _totals(task, asked, _without_picture(answer, texts, size, batch))
            constant = _constant_answers(task, asked, answers)
            for metric, tally in sorted(_totals(task, asked, answers).items(), key=_reading_order):
                score, unseen = _ratio(tally), _ratio(blind.get(metric, (0.0, 0.0)))
                results.append(Result(task.name, metric, language, score, unseen, constant[metric], len(asked)))
                progress(f"{task.name}, {metric}, {language}: {score:.3f} (no picture {unseen:.3f})")
    return results


def markdown_table(results: Sequence[Result]) -> str:
    """The results as a Markdown table, languages side by side."""
    by_line: dict[tuple[str, str], dict[str, Result]] = {}
    for result in results:
        by_line.setdefault((result.task, result.metric), {})[result.language] = result
    languages = [language for language in tasks.LANGUAGES if any(result.language == language for result in results)]
    columns = ("score", "no_picture", "constant")
    header = ["task", "metric"] + [
        f"{column.replace('_', ' ')} {language}" for column in columns for language in languages
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * 2 + "---:|" * (len(header) - 2)]
    for (task, metric), line in by_line.items():
        cells = [f"{getattr(line[language], column):.3f}" for column in columns for language in languages]
        lines.append("| " + " | ".join([task, metric, *cells]) + " |")
    return "\n".join(lines)


def to_json(results: Sequence[Result]) -> str:
    return json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=1)
