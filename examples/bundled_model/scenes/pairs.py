"""Pairs of scenes, and questions about two images at once.

In a question the images are told apart as *image 1* and *image 2*, as the prompt labels them.
"""

from __future__ import annotations

from typing import Callable

import numpy as np

from .lexicon import ALL_KINDS, KINDS
from .phrases import ANSWERS, ORDINALS
from .scene import Scene, generate_scene
from .tasks import Conversation, ask, count_answer, listing, name

PARTNER_SEED = 2**50  # added to a seed for the second image: far from all seeds of single scenes
P_SHARED_KIND = 0.6

PairTask = Callable[[Scene, Scene, str, np.random.Generator], "Conversation | None"]


def generate_pair(seed: int, *, size: int = 168, style: str | None = None) -> tuple[Scene, Scene]:
    """Two scenes of ``seed``; more often than not they have a kind of object in common.

    The arguments are those of :func:`~.scene.generate_scene`, whose scene of ``seed`` is the first
    of the two.
    """
    first = generate_scene(seed, size=size, style=style)
    rng = np.random.default_rng([seed, 3])
    shared = None
    if rng.random() < P_SHARED_KIND:
        shared = (ALL_KINDS[first.objects[int(rng.integers(len(first.objects)))].kind].en,)
    return first, generate_scene(PARTNER_SEED + seed, size=size, style=style, kinds=shared)


def _kinds(scene: Scene) -> list[int]:
    """The different kinds of a scene, from left to right."""
    return list(dict.fromkeys(placed.kind for placed in scene.left_to_right()))


def _single(question: str, answer: str, language: str) -> Conversation:
    return Conversation("pair", language, ((question, answer),))


def more(first: Scene, second: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Which image has more objects? Not asked if they have the same number."""
    difference = len(second.objects) - len(first.objects)
    if difference == 0:
        return None
    answer = ANSWERS["pair_one"][language].format(n=2 if difference > 0 else 1)
    return _single(ask("pair_more", language, rng), answer, language)


def which(first: Scene, second: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """Which image shows a kind of object: the first, the second, both or neither, each about as often."""
    here, there = _kinds(first), _kinds(second)
    both = [kind for kind in here if kind in there]
    options = [
        (ANSWERS["pair_one"][language].format(n=1), [kind for kind in here if kind not in there]),
        (ANSWERS["pair_one"][language].format(n=2), [kind for kind in there if kind not in here]),
        (ANSWERS["pair_which_none"][language], [kind for kind in range(len(KINDS)) if kind not in here + there]),
        # Twice, for it cannot be asked of every pair.
        (ANSWERS["pair_which_both"][language], both),
        (ANSWERS["pair_which_both"][language], both),
    ]
    options = [option for option in options if option[1]]
    answer, kinds = options[int(rng.integers(len(options)))]
    kind = kinds[int(rng.integers(len(kinds)))]
    slots = {"kind": name(kind, language), "a_kind": ALL_KINDS[kind].with_article}
    return _single(ask("pair_which", language, rng, **slots), answer, language)


def both(first: Scene, second: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """What is in both images?"""
    there = _kinds(second)
    shared = [kind for kind in _kinds(first) if kind in there]
    if shared:
        answer = ANSWERS["pair_both"][language].format(list=listing(shared, language))
    else:
        answer = ANSWERS["pair_both_none"][language]
    return _single(ask("pair_both", language, rng), answer, language)


def _numbered(task: str, language: str, rng: np.random.Generator, index: int) -> str:
    return ask(task, language, rng, n=str(index + 1), ordinal=ORDINALS[language][index])


def what(first: Scene, second: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """What is in one of the images?"""
    index = int(rng.integers(2))
    kinds = [placed.kind for placed in (first, second)[index].left_to_right()]
    answer = ANSWERS["pair_what"][language].format(n=index + 1, list=listing(kinds, language))
    return _single(_numbered("pair_what", language, rng, index), answer, language)


def count(first: Scene, second: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """How many objects are in one of the images?"""
    index = int(rng.integers(2))
    answer = count_answer((first, second)[index], language)
    return _single(_numbered("pair_count", language, rng, index), answer, language)


PAIR_TASKS: tuple[PairTask, ...] = (more, which, which, both, what, count)
"""What :func:`pair` draws from, evenly."""


def pair(first: Scene, second: Scene, language: str, rng: np.random.Generator) -> Conversation | None:
    """A question about two images, in the order in which they are shown; None if it does not suit them."""
    return PAIR_TASKS[int(rng.integers(len(PAIR_TASKS)))](first, second, language, rng)
