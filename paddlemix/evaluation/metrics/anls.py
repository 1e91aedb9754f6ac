"""Average normalized Levenshtein similarity (DocVQA).

Source: Biten et al., "Scene Text Visual Question Answering" (2019), and the challenge's script, which divides by the
lengths before white space was collapsed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...utils.dependencies import require

THRESHOLD = 0.5


def anls(prediction: str, answers: Sequence[str], *, threshold: float = THRESHOLD, as_original: bool = False) -> float:
    """Similarity to the closest answer, 0 to 1; below ``threshold`` it is 0.

    ``as_original``: lengths are those of the raw texts in upper case, so that padding raises the score.
    """
    best = max((_similarity(prediction, answer, as_original) for answer in answers), default=0.0)
    return best if best >= threshold else 0.0


def _similarity(prediction: str, answer: str, as_original: bool) -> float:
    given, truth = " ".join(prediction.lower().split()), " ".join(answer.lower().split())
    length = max(len(prediction.upper()), len(answer.upper())) if as_original else max(len(given), len(truth))
    if length == 0:
        return 1.0
    distance = require("rapidfuzz", "ANLS").distance.Levenshtein.distance(given, truth)
    return 1 - distance / length
