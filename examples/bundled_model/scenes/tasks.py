"""Questions about a scene and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import numpy as np

from paddlemix.errors import ConfigurationError

from .lexicon import ALL_KINDS, COLORS, KINDS
from .phrases import ANSWERS, JOINERS, NO_IMAGE, QUESTIONS, SMALL_TALK
from .scene import BoxF, PlacedObject, Scene

LANGUAGES = ("en", "zh")
MIN_SIDE_GAP = 0.08  # left or right is asked only if the centers are at least this far apart
P_ABSENT_KIND = 0.15  # how often a count asks for a kind that is not in the scene
MAX_CAPTION_BEFORE = 3  # a dialogue starts with a caption only if that has no more objects: rows of training are short

Turn = tuple[str, str]


@dataclass(frozen=True)
class Conversation:
    """One or more (question, answer) turns about one scene, or without an image.

    ``task`` is a key of :data:`TASKS` (``followup`` has two turns, ``dialogue`` three), ``pair`` for a question about
    two images, or ``text`` for talk without an image; ``subject`` is the kind that the last turn is about where that
    is a single thing in the scene, so that "it" could stand for it, else None.
    """

    task: str
    language: str
    turns: tuple[Turn, ...]
    subject: int | None = None


# --- pieces of answers


def coordinates(box: BoxF) -> tuple[int, int, int, int]:
    """A box in [0, 1] as the integers 0..999 that stand in a text."""
    x1, y1, x2, y2 = (min(999, max(0, round(side * 1000))) for side in box)
    return x1, y1, x2, y2


def box_tag(box: BoxF) -> str:
    return "<box>({},{}),({},{})</box>".format(*coordinates(box))


def name(kind: int, language: str) -> str:
    return ALL_KINDS[kind].en if language == "en" else ALL_KINDS[kind].zh


def grounded(placed: PlacedObject, language: str, article: bool = False) -> str:
    """``<ref>bus</ref><box>(178,280),(803,894)</box>``; with ``article`` and in English ``<ref>a bus</ref>…``."""
    label = ALL_KINDS[placed.kind].with_article if article and language == "en" else name(placed.kind, language)
    return f"<ref>{label}</ref>{box_tag(placed.box)}"


def listing(kinds: Sequence[int], language: str) -> str:
    """``a bus, a dog and a cup`` or ``公交车、狗和杯子``."""
    names = [ALL_KINDS[kind].with_article if language == "en" else ALL_KINDS[kind].zh for kind in kinds]
    if len(names) == 1:
        return names[0]
    comma, last = JOINERS[language]
    return comma.join(names[:-1]) + last + names[-1]


# --- one function per task: (scene, language, rng) -> conversation, or None where the scene does not allow the question


def ask(task: str, language: str, rng: np.random.Generator, **slots: str) -> str:
    """One of the task's wordings in ``phrases.QUESTIONS``, as people may write it."""
    phrasings = QUESTIONS[task][language]
    text = phrasings[int(rng.integers(len(phrasings)))].format(**slots)
    return vary(text, rng)


def vary(question: str, rng: np.random.Generator) -> str:
    """Small liberties that people take: a half-width question mark or colon, no mark at the end, no capital letter."""
    chance = rng.random()
    if chance < 0.15 and question[-1] in "？：":
        return question[:-1] + {"？": "?", "：": ":"}[question[-1]]
    if chance < 0.22 and question[-1] in "？?。.":
        return question[:-1]
    if chance < 0.27 and question.isascii():
        return question[0].lower() + question[1:]
    return question


def _pick(rng: np.random.Generator, items: Sequence[PlacedObject]) -> PlacedObject:
    return items[int(rng.integers(len(items)))]


def caption_answer(scene: Scene, language: str) -> str:
    return JOINERS[language][0].join(grounded(placed, language, article=True) for placed in scene.left_to_right())


def what_answer(scene: Scene, language: str) -> str:
    kinds = [placed.kind for placed in scene.left_to_right()]
    return ANSWERS["what_one" if len(kinds) == 1 else "what_many"][language].format(list=listing(kinds, language))


def _only(scene: Scene) -> int | None:
    """The kind of the only object, None if there are several."""
    return scene.objects[0].kind if len(scene.objects) == 1 else None


def count_answer(scene: Scene, language: str) -> str:
    n = len(scene.objects)
    return ANSWERS["count_one" if n == 1 else "count_many"][language].format(n=n)


def caption(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    turn = (ask("caption", language, rng), caption_answer(scene, language))
    return Conversation("caption", language, (turn,), _only(scene))


def refer(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    candidates = scene.unique()
    if not candidates:
        return None
    placed = _pick(rng, candidates)
    question = ask("refer", language, rng, kind=name(placed.kind, language))
    return Conversation("refer", language, ((question, grounded(placed, language)),), placed.kind)


def what(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    turn = (ask("what", language, rng), what_answer(scene, language))
    return Conversation("what", language, (turn,), _only(scene))


def describe(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    kinds = [placed.kind for placed in scene.left_to_right()]
    answer = ANSWERS["describe"][language].format(list=listing(kinds, language))
    return Conversation("describe", language, ((ask("describe", language, rng), answer),), _only(scene))


def count(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    turn = (ask("count", language, rng), count_answer(scene, language))
    return Conversation("count", language, (turn,), _only(scene))


def count_kind(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    present = [placed.kind for placed in scene.objects]
    repeated = [kind for kind in present if present.count(kind) > 1]
    if rng.random() < P_ABSENT_KIND:
        absent = [kind for kind in range(len(KINDS)) if kind not in present]
        kind = absent[int(rng.integers(len(absent)))]
    elif repeated and rng.random() < 0.7:
        kind = repeated[0]
    else:
        kind = present[int(rng.integers(len(present)))]
    n = present.count(kind)
    slots = {"kind": name(kind, language), "kinds": ALL_KINDS[kind].plural, "measure": ALL_KINDS[kind].measure}
    answer = ANSWERS["count_kind_one" if n == 1 else "count_kind_many"][language].format(n=n, **slots)
    turn = (ask("count_kind", language, rng, **slots), answer)
    return Conversation("count_kind", language, (turn,), kind if n == 1 else None)


def color(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    candidates = [placed for placed in scene.unique() if placed.color is not None]
    if not candidates:
        return None
    placed = _pick(rng, candidates)
    kind = name(placed.kind, language)
    answer = ANSWERS["color"][language].format(kind=kind, color=color_name(placed.color, language))
    return Conversation("color", language, ((ask("color", language, rng, kind=kind), answer),), placed.kind)


def color_name(index: int, language: str) -> str:
    return COLORS[index].en if language == "en" else COLORS[index].zh


def relation(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    unique = scene.unique()
    pairs = [(a, b) for a in unique for b in unique if abs(a.center[0] - b.center[0]) >= MIN_SIDE_GAP]
    if not pairs:
        return None
    first, second = pairs[int(rng.integers(len(pairs)))]
    slots = {"kind": name(first.kind, language), "other": name(second.kind, language)}
    side = "left" if first.center[0] < second.center[0] else "right"
    turn = (ask("relation", language, rng, **slots), ANSWERS[side][language].format(**slots))
    return Conversation("relation", language, (turn,), first.kind)


def absent(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Where something is that is not there, what color it has, or on which side of something else it stands."""
    present = {placed.kind for placed in scene.objects}
    missing = [kind for kind in range(len(KINDS)) if kind not in present]
    kind = missing[int(rng.integers(len(missing)))]
    other = _pick(rng, scene.objects).kind
    task = ("refer", "refer", "color", "relation")[int(rng.integers(4))]
    question = ask(task, language, rng, kind=name(kind, language), other=name(other, language))
    answer = ANSWERS["absent"][language].format(kind=name(kind, language))
    return Conversation("absent", language, ((question, answer),))


def word(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    if scene.sign is None:
        return None
    return Conversation("word", language, ((ask("word", language, rng), scene.sign.word),))


# --- several turns


def _chain(task: str, *parts: Conversation) -> Conversation | None:
    """The parts as one conversation; None if that would give the same answer twice in a row."""
    turns = tuple(turn for part in parts for turn in part.turns)
    if any(before[1] == after[1] for before, after in zip(turns, turns[1:])):
        return None
    return Conversation(task, parts[0].language, turns, parts[-1].subject)


def where_is_it(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Two turns: something else about one thing, then where ``it`` is."""
    before = (color, relation, count_kind, what)[int(rng.integers(4))](scene, language, rng)
    if before is None or before.subject is None:
        return None
    turn = (ask("refer_it", language, rng), grounded(_unique_of(scene, before.subject), language))
    return _chain("followup", before, Conversation("refer_it", language, (turn,), before.subject))


def what_color_is_it(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Two turns: something else about one thing, then what color ``it`` is."""
    before = (refer, relation, count_kind, what)[int(rng.integers(4))](scene, language, rng)
    if before is None or before.subject is None:
        return None
    tint = _unique_of(scene, before.subject).color
    if tint is None:
        return None
    answer = ANSWERS["color_it"][language].format(color=color_name(tint, language))
    turn = (ask("color_it", language, rng), answer)
    return _chain("followup", before, Conversation("color_it", language, (turn,), before.subject))


def _unique_of(scene: Scene, kind: int) -> PlacedObject:
    return next(placed for placed in scene.unique() if placed.kind == kind)


def _about_it(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    return (where_is_it, what_color_is_it)[int(rng.integers(2))](scene, language, rng)


def _about_a_part(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    return (refer, refer, color, relation, count_kind, word)[int(rng.integers(6))](scene, language, rng)


def followup(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Two turns: about the whole image and then about one thing in it, or about one thing and then about ``it``."""
    if rng.random() < 0.5:
        return _about_it(scene, language, rng)
    opening = (what, count, describe)[int(rng.integers(3))](scene, language, rng)
    part = _about_a_part(scene, language, rng)
    return None if part is None else _chain("followup", opening, part)


def dialogue(scene: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Three turns: about the whole image, then about a thing and ``it``, or about two things."""
    openings = (what, count, describe, caption)[: 4 if len(scene.objects) <= MAX_CAPTION_BEFORE else 3]
    opening = openings[int(rng.integers(len(openings)))](scene, language, rng)
    if rng.random() < 0.6:
        rest = (_about_it(scene, language, rng),)
    else:
        rest = (_about_a_part(scene, language, rng), _about_a_part(scene, language, rng))
    return None if None in rest else _chain("dialogue", opening, *rest)


TASKS: dict[str, Callable[[Scene, str, np.random.Generator], Conversation | None]] = {
    "caption": caption,
    "refer": refer,
    "what": what,
    "describe": describe,
    "count": count,
    "count_kind": count_kind,
    "color": color,
    "relation": relation,
    "absent": absent,
    "word": word,
    "followup": followup,
    "dialogue": dialogue,
}

WEIGHTS: dict[str, float] = {
    "caption": 3.0,
    "refer": 5.0,
    "what": 1.2,
    "describe": 0.6,
    "count": 1.2,
    "count_kind": 0.6,
    "color": 1.2,
    "relation": 1.2,
    "absent": 2.0,
    "word": 1.6,
    "followup": 1.2,
    "dialogue": 1.6,
}
"""How often each task is asked, relative to the others, in training."""

_ATTEMPTS = 1000  # without one conversation


def make_conversations(
    scene: Scene, rng: np.random.Generator, count: int, weights: dict[str, float] | None = None
) -> list[Conversation]:
    """``count`` different conversations about ``scene``, tasks drawn by ``weights`` and languages evenly.

    No question comes twice and no object is referred to twice in the same language, unless nothing else is left to ask.

    Raises:
        ConfigurationError: the scene has nothing to ask for any task with a weight.
    """
    weights = WEIGHTS if weights is None else weights
    tasks = list(weights)
    left = np.array([weights[task] for task in tasks], np.float64)
    made: list[Conversation] = []
    seen = set()
    attempts = 0
    while len(made) < count:
        if not made and (attempts >= _ATTEMPTS or not left.any()):
            wanted = ", ".join(task for task in tasks if weights[task] > 0) or "no task"
            raise ConfigurationError(
                f"weights: this scene of {len(scene.objects)} objects has nothing to ask for {wanted}; add other tasks"
            )
        attempts += 1
        index = int(np.searchsorted(np.cumsum(left), rng.random() * left.sum(), side="right"))
        language = LANGUAGES[int(rng.integers(2))]
        conversation = TASKS[tasks[index]](scene, language, rng)
        if conversation is None:
            continue
        key = (
            conversation.task,
            language,
            conversation.subject if conversation.task == "refer" else conversation.turns,
        )
        if key in seen and attempts < 10 * count:
            continue
        seen.add(key)
        made.append(conversation)
        left[index] *= 0.7 if tasks[index] == "refer" else 0.3
    return made


def make_text_conversation(rng: np.random.Generator) -> Conversation:
    """A conversation without an image: small talk, or a question about an image that was not given."""
    language = LANGUAGES[int(rng.integers(2))]
    if rng.random() < 0.5:
        talks = SMALL_TALK[language]
        questions, answer = talks[int(rng.integers(len(talks)))]
        return Conversation("text", language, ((vary(questions[int(rng.integers(len(questions)))], rng), answer),))
    tasks = [task for task in TASKS if task in QUESTIONS]
    task = tasks[int(rng.integers(len(tasks)))]
    kind, other = (int(index) for index in rng.choice(len(KINDS), 2, replace=False))
    slots = {
        "kind": name(kind, language),
        "kinds": KINDS[kind].plural,
        "other": name(other, language),
        "measure": KINDS[kind].measure,
    }
    return Conversation("text", language, ((ask(task, language, rng, **slots), NO_IMAGE[language]),))
