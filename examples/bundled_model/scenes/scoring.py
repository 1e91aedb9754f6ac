"""How an answer about a scene is scored: names, boxes, numbers, colors and sides read out of free text.

Every scorer takes (question, answer) and returns *tallies*, metric name -> (points, out of): summed over questions,
their ratio is the metric.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from paddlemix.models.qwen_vl.grounding import BOX_PATTERN, SCALE, exact_boxes, iou

from .lexicon import ALL_KINDS, COLORS
from .scene import BoxF, Scene
from .tasks import Turn

Tallies = dict[str, tuple[float, float]]
NamedBox = tuple[str, "BoxF | None"]
MIN_IOU = 0.5
IOU_STEPS = (0.75, 0.85)  # what is reported beside it
_ENDS = " .。\n"

_TAGGED = re.compile(rf"<ref>(?P<label>.*?)</ref>(?P<box>(?:{BOX_PATTERN})?)")
_FORMS = {form: kind.en for kind in ALL_KINDS for form in (kind.plural, kind.en, kind.zh)}
_COLOR_FORMS = {form: color.en for color in COLORS for form in (color.en, color.zh)}
_REFUSALS = re.compile(r"\b[Tt]here is no\b|没有")
_SIDES = {"left": "left", "right": "right", "左边": "left", "右边": "right"}
_CHOICES = {
    "1": "first", "first": "first", "第一": "first",
    "2": "second", "second": "second", "第二": "second",
    "both": "both", "都有": "both",
    "neither": "neither", "都没有": "neither",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question about one scene or several, after the turns of ``history``, and the answer that training would give.

    ``subject`` is the kind (index) that the question is about where that is a single thing.
    """

    scenes: tuple[Scene, ...]
    text: str
    expected: str
    subject: int | None = None
    history: tuple[Turn, ...] = ()


def _finder(forms: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the forms, the longest first; those in Latin letters only as whole words."""
    ordered = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(rf"\b{form}\b" if form.isascii() else form for form in ordered), re.ASCII)


_NAMES, _COLOR_NAMES, _SIDE_NAMES = _finder(tuple(_FORMS)), _finder(tuple(_COLOR_FORMS)), _finder(tuple(_SIDES))
_CHOICE_NAMES = _finder(tuple(_CHOICES))


def names_in(text: str) -> list[str]:
    """English names of the kinds that a text mentions, in either language, in order, with repetitions."""
    return list(_names_in(text))


@lru_cache(maxsize=4096)  # the constant baseline scores the same few texts again and again
def _names_in(text: str) -> tuple[str, ...]:
    return tuple(_FORMS[form] for form in _NAMES.findall(text))


def boxes_in(text: str) -> list[BoxF]:
    """The boxes of a text in [0, 1]."""
    return [(x1 / SCALE, y1 / SCALE, x2 / SCALE, y2 / SCALE) for x1, y1, x2, y2 in exact_boxes(text)]


def named_boxes_in(text: str) -> list[NamedBox]:
    """(name, box) of each ``<ref>`` that names a known kind; None where no whole box follows."""
    found: list[NamedBox] = []
    for match in _TAGGED.finditer(text):
        label, box = match["label"], match["box"]
        names = names_in(label)
        found += [(names[0], (boxes_in(box) or [None])[0])] if names else [(label, None)]
    return found


# --- scorers


def score_refer(question: Question, answer: str) -> Tallies:
    """Is the first box of the answer the right one? Told apart by the number of objects in the scene.

    What is not answered with a box is, nearly always, refused: the thing asked for is said not to be there.
    """
    (scene,) = question.scenes
    target = next(placed.box for placed in scene.objects if placed.kind == question.subject)
    boxes = boxes_in(answer)
    overlap = iou(boxes[0], target) if boxes else 0.0
    hit = float(overlap >= MIN_IOU)
    n = len(scene.objects)
    tallies = {"1–5 objects": (hit, 1.0), f"{n} object{'s' if n > 1 else ''}": (hit, 1.0)}
    if n <= 3:
        tallies["1–3 objects"] = (hit, 1.0)
    tallies["mean IoU"] = (overlap, 1.0)
    tallies.update({f"IoU ≥ {step}": (float(overlap >= step), 1.0) for step in IOU_STEPS})
    tallies["answered with a box"] = (float(bool(boxes)), 1.0)
    return tallies


def refuses(answer: str) -> bool:
    """Whether an answer says that something is not there."""
    return _REFUSALS.search(answer) is not None


def score_refusal(question: Question, answer: str) -> Tallies:
    """Does the answer say that the thing asked for is not there, and of that very thing?"""
    named = refuses(answer) and names_in(answer) == names_in(question.expected)
    return {"right refusals": (float(named), 1.0)}


def score_caption(question: Question, answer: str) -> Tallies:
    """Objects named, and named with a box of IoU >= 0.5: recall over what is there, precision over what is named."""
    (scene,) = question.scenes
    said = named_boxes_in(answer)
    there = [(ALL_KINDS[placed.kind].en, placed.box) for placed in scene.objects]
    named = float(sum((Counter(name for name, _ in said) & Counter(name for name, _ in there)).values()))
    unmatched = list(there)
    located = 0.0
    for name, box in said:
        candidates = [
            other for other in unmatched if box is not None and other[0] == name and iou(box, other[1]) >= MIN_IOU
        ]
        if candidates:
            unmatched.remove(candidates[0])
            located += 1.0
    return {
        "recall, named": (named, len(there)),
        "precision, named": (named, len(said)),
        "recall, named and IoU ≥ 0.5": (located, len(there)),
        "precision, named and IoU ≥ 0.5": (located, len(said)),
    }


def score_what_one(question: Question, answer: str) -> Tallies:
    return {"accuracy": (float(names_in(answer) == names_in(question.expected)), 1.0)}


def score_what_list(question: Question, answer: str) -> Tallies:
    there, said = Counter(names_in(question.expected)), Counter(names_in(answer))
    named = float(sum((there & said).values()))
    return {
        "recall": (named, sum(there.values())),
        "precision": (named, sum(said.values())),
        "all right": (float(there == said), 1.0),
    }


def _score_same(found: Sequence[str], wanted: Sequence[str]) -> Tallies:
    return {"accuracy": (float(list(found) == list(wanted)), 1.0)}


def score_count(question: Question, answer: str) -> Tallies:
    return _score_same(re.findall(r"\d+", answer), re.findall(r"\d+", question.expected))


def score_color(question: Question, answer: str) -> Tallies:
    def colors(text: str) -> list[str]:
        return [_COLOR_FORMS[form] for form in _COLOR_NAMES.findall(text)]

    return _score_same(colors(answer), colors(question.expected))


def score_relation(question: Question, answer: str) -> Tallies:
    def sides(text: str) -> list[str]:
        return [_SIDES[form] for form in _SIDE_NAMES.findall(text)]

    return _score_same(sides(answer), sides(question.expected))


def score_word(question: Question, answer: str) -> Tallies:
    return _score_same([answer.strip(_ENDS)], [question.expected])


def score_choice(question: Question, answer: str) -> Tallies:
    """Which of two images: the first, the second, both or neither."""

    def choices(text: str) -> list[str]:
        return [_CHOICES[form] for form in _CHOICE_NAMES.findall(text.lower())]

    return _score_same(choices(answer), choices(question.expected))


def score_shared(question: Question, answer: str) -> Tallies:
    """What two images have in common: the same names in any order, or the sentence that there is nothing."""
    wanted = set(names_in(question.expected))
    if wanted:
        return {"accuracy": (float(set(names_in(answer)) == wanted), 1.0)}
    return _score_same([_bare(answer)], [_bare(question.expected)])


def _bare(text: str) -> str:
    return text.strip(_ENDS).lower()
