"""Measures a model on unseen scenes, beside two baselines.

A question may come after others about the same scene, with the right answers given, and may be about two images.

*No image*: the same model answers the same question about evenly gray images.
*Constant*: what can be had without looking. Where a box is asked for, one in the center; for ``caption`` the most
frequent names, as many as score best, each with a box in the center; for the other tasks the one answer that is right
most often over the questions asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from PIL import Image

from . import pairs, scoring, tasks
from .pairs import generate_pair
from .scene import MAX_OBJECTS, Scene, generate_scene
from .scoring import Question, Tallies


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: images, earlier (question, answer) turns about them, and the question ``text``."""

    images: tuple[Image.Image, ...]
    text: str
    history: tuple[tasks.Turn, ...] = ()


AnswerFunction = Callable[[Sequence[Prompt]], "list[str]"]
"""Answers each prompt by itself, in order."""

FIRST_SEED = 2**40  # training stays below 2**31
SEEDS_PER_GROUP = 2**24
GRAY = (128, 128, 128)
CENTER_BOX = (0.37, 0.37, 0.63, 0.63)  # 0.26 is the mean of the longest sides


@dataclass(frozen=True)
class Task:
    """A part of the table: which scenes are asked about, how, and how answers are scored.

    Attributes:
        ask: (scene, language, rng) -> conversation or None, as in :mod:`tasks`; (first, second, language, rng) as in
            :mod:`pairs` if there are two scenes. The last turn is asked, the others are its history.
        score: (question, answer) -> points.
        scenes: (seed, size, style) -> the scenes asked about; with ``num_objects`` as well where ``objects`` has any.
        objects: numbers of objects in a scene, evenly; none if they are left to chance.
        answers: how many different answers there are if each is to be expected equally often, else None.
    """

    name: str
    ask: Callable[..., tasks.Conversation | None]
    score: Callable[[Question, str], Tallies]
    scenes: Callable[..., tuple[Scene, ...]]
    objects: tuple[int, ...] = tuple(range(1, MAX_OBJECTS + 1))
    answers: int | None = None


def _one(seed: int, *, size: int, style: str | None, num_objects: int, sign: bool | None = None) -> tuple[Scene, ...]:
    return (generate_scene(seed, size=size, style=style, num_objects=num_objects, sign=sign),)


SEVERAL = (2, 3, 4, 5)
TASKS: tuple[Task, ...] = (
    Task("refer", tasks.refer, scoring.score_refer, _one),
    Task("caption", tasks.caption, scoring.score_caption, _one),
    Task("what (one object)", tasks.what, scoring.score_what_one, _one, objects=(1,)),
    Task("what (2–5 objects)", tasks.what, scoring.score_what_list, _one, objects=SEVERAL),
    Task("count", tasks.count, scoring.score_count, _one),
    Task("color", tasks.color, scoring.score_color, _one),
    Task("left or right", tasks.relation, scoring.score_relation, _one, objects=SEVERAL),
    Task("word", tasks.word, scoring.score_word, partial(_one, sign=True)),
    Task("where is it", tasks.where_is_it, scoring.score_refer, _one),
    Task("what colour is it", tasks.what_color_is_it, scoring.score_color, _one),
    Task("pair: which shows", pairs.which, scoring.score_choice, generate_pair, objects=(), answers=4),
    Task("pair: which has more", pairs.more, scoring.score_choice, generate_pair, objects=(), answers=2),
    Task("pair: what is in both", pairs.both, scoring.score_shared, generate_pair, objects=()),
    Task("pair: what is in one", pairs.what, scoring.score_what_list, generate_pair, objects=()),
    Task("pair: count in one", pairs.count, scoring.score_count, generate_pair, objects=(), answers=MAX_OBJECTS),
    Task("absent", tasks.absent, scoring.score_refusal, _one),
)
"""To be appended to only: a task's place decides its seeds."""


@dataclass(frozen=True)
class Result:
    """One metric of one task in one language; scores are in [0, 1]."""

    task: str
    metric: str
    language: str
    score: float
    no_image: float
    constant: float
    questions: int


def questions(task: Task, language: str, count: int, size: int = 168, style: str | None = None) -> Iterator[Question]:
    """``count`` questions, each about a scene of its own that no training has seen; the same ones at every call."""
    group = TASKS.index(task) * len(tasks.LANGUAGES) + tasks.LANGUAGES.index(language)
    seed, made = FIRST_SEED + group * SEEDS_PER_GROUP, 0
    expected: Counter = Counter()
    while made < count:
        number = {"num_objects": task.objects[made % len(task.objects)]} if task.objects else {}
        scenes = task.scenes(seed, size=size, style=style, **number)
        conversation = task.ask(*scenes, language, np.random.default_rng([seed, 2]))
        seed += 1
        if conversation is None:
            continue
        *history, (text, right) = conversation.turns
        if task.answers is not None and expected[right] >= -(-count // task.answers):
            continue
        expected[right] += 1
        made += 1
        yield Question(scenes, text, right, conversation.subject, tuple(history))


def prompt(question: Question) -> Prompt:
    return Prompt(tuple(scene.pil() for scene in question.scenes), question.text, question.history)


def _ask_all(answer: AnswerFunction, prompts: Sequence[Prompt], batch: int) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(prompts), batch):
        answers += answer(prompts[start : start + batch])
    return answers


def _without_image(answer: AnswerFunction, asked: Sequence[Question], size: int, batch: int) -> list[str]:
    """Answers about gray images; each different question is asked once."""
    gray = Image.new("RGB", (size, size), GRAY)
    keys = [(len(question.scenes), question.history, question.text) for question in asked]
    distinct = list(dict.fromkeys(keys))
    prompts = [Prompt((gray,) * images, text, history) for images, history, text in distinct]
    known = dict(zip(distinct, _ask_all(answer, prompts, batch)))
    return [known[key] for key in keys]


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


def _constant_answers(task: Task, asked: Sequence[Question]) -> dict[str, float]:
    """Metric -> score of the *constant* baseline of this module's docstring."""
    center = tasks.box_tag(CENTER_BOX)
    if task.score is scoring.score_refer:
        candidates = [[center] * len(asked)]
    elif task.score is scoring.score_caption:
        named = Counter(name for item in asked for name, _ in scoring.named_boxes_in(item.expected))
        frequent = [name for name, _ in named.most_common(MAX_OBJECTS)]
        tried = (frequent[:count] for count in range(1, len(frequent) + 1))
        candidates = [["".join(f"<ref>{name}</ref>{center}" for name in names)] * len(asked) for names in tried]
    else:
        tried = dict.fromkeys(text for item in asked for text in _answers_to_try(task, item))
        candidates = [[text] * len(asked) for text in tried]
    totals = [_totals(task, asked, candidate) for candidate in candidates]
    return {metric: max(_ratio(total.get(metric, (0.0, 0.0))) for total in totals) for metric in totals[0]}


def _answers_to_try(task: Task, question: Question) -> list[str]:
    """The expected answer; of a list its first name alone as well, which has the higher precision."""
    if task.score is scoring.score_what_list:
        return [question.expected, scoring.names_in(question.expected)[0]]
    return [question.expected]


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
        answer: see :data:`AnswerFunction`; called with at most ``batch`` prompts (images in RGB, ``size`` pixels a
            side).
        style: draws all objects in this style, one of ``lexicon.ALL_STYLES``; otherwise in all of ``lexicon.STYLES``.
        progress: told one line after each task and language.
    """
    results: list[Result] = []
    for task in only:
        for language in tasks.LANGUAGES:
            asked = list(questions(task, language, count, size, style))
            answers = _ask_all(answer, [prompt(question) for question in asked], batch)
            blind = _totals(task, asked, _without_image(answer, asked, size, batch))
            constant = _constant_answers(task, asked)
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
    columns = ("score", "no_image", "constant")
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
