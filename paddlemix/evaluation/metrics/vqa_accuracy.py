"""VQA accuracy: agreement with ten people's answers.

Sources: the VQA data set's evaluator (VQAv2, OK-VQA, VizWiz), the TextVQA challenge's (EvalAI answer processor), and
the evaluator that the original ships. An answer that n of the other nine gave is worth min(1, n / 3), on average over
the ten that are left out in turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

Variant = Literal["official", "textvqa", "original"]

PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_ANY_PUNCTUATION = re.compile("[" + re.escape("".join(PUNCTUATION)) + ".]")
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32  # all evaluators pass a flag of this value in the place of the number of replacements

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've weren't we've what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've 'ow's'at
""".split()


def _misspelled(word: str) -> list[str]:
    """The word with one apostrophe left out, each in turn."""
    return [word[:at] + word[at + 1 :] for at, character in enumerate(word) if character == "'"]


CONTRACTIONS = {wrong: word for word in _CONTRACTIONS for wrong in _misspelled(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the evaluators' table has it this way round


def strip_punctuation(text: str) -> str:
    """Punctuation removed where it stands next to a space anywhere in the text, else replaced by a space."""
    if not _ANY_PUNCTUATION.search(text):
        return text
    result, has_digit_comma = text, _DIGIT_COMMA.search(text) is not None
    for mark in PUNCTUATION:
        if mark in text:
            is_apart = has_digit_comma or f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if is_apart else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def normalize_words(text: str) -> str:
    """Lower-cased words, numbers up to ten as digits, without articles, contractions with their apostrophes."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 18)
def normalize(text: str) -> str:
    """Both steps, as the VQA data set's evaluator applies them."""
    return normalize_words(strip_punctuation(text))


@lru_cache(maxsize=1 << 18)
def normalize_textvqa(text: str) -> str:
    """The EvalAI answer processor: commas, question marks and ``'s`` first, then both steps."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalize(_one_line(text))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(
    prediction: str, answers: Sequence[str], variant: Variant = "official", *, has_answer_ids: bool = True
) -> float:
    """Accuracy of one prediction, 0 to 1.

    Args:
        prediction: the model's answer.
        answers: those of all annotators, usually ten.
        variant: ``"official"``: normalizes both sides unless all annotators agree; ``"textvqa"``: both sides, always;
            ``"original"``: both steps for the prediction, punctuation alone for answers that differ.
        has_answer_ids: False: equal answers are one record, as they are to an evaluator that compares annotations
            without ids; they then remove each other.
    """
    if variant == "textvqa":
        given, truth = normalize_textvqa(prediction), [normalize_textvqa(answer) for answer in answers]
    elif variant == "original":
        given = normalize(_one_line(prediction))
        truth = [strip_punctuation(answer) for answer in answers] if len(set(answers)) > 1 else list(answers)
    else:
        given, truth = _one_line(prediction), [_one_line(answer) for answer in answers]
        if len(set(truth)) > 1:
            given, truth = normalize(given), [normalize(answer) for answer in truth]
    return _agreement(tuple(answer == given for answer in truth), has_answer_ids)


@lru_cache(maxsize=1 << 12)
def _agreement(is_match: tuple[bool, ...], has_answer_ids: bool) -> float:
    """The mean over annotators of min(1, matches among the others / 3), summed in their order."""
    matches = sum(is_match)
    own = 1 if has_answer_ids else matches  # records without ids leave out their equals, too
    credits = [min(1.0, (matches - own if agrees else matches) / 3) for agrees in is_match]
    return sum(credits) / len(credits) if credits else 0.0
