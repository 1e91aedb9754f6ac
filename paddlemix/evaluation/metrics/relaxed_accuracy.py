"""Relaxed accuracy (ChartQA): numbers within 5 %, other texts equal but for case.

Source: Masry et al., "ChartQA" (2022), as pix2struct computes it. The original calls the same function with prediction
and reference exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

TOLERANCE = 0.05


def to_number(text: str) -> float | None:
    """What Python reads as a float, with ``%`` as hundredths; None for other texts."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def is_close(prediction: str, reference: str) -> bool:
    """Within 5 % of the reference where both are numbers and the reference is not 0, else equal but for case."""
    value, truth = to_number(prediction), to_number(reference)
    if value is not None and truth:
        return abs(value - truth) / abs(truth) <= TOLERANCE
    return prediction.lower() == reference.lower()


def relaxed_accuracy(prediction: str, answers: Sequence[str], *, as_original: bool = False) -> float:
    """1.0 where the prediction is close to one of the answers, else 0.0.

    ``as_original``: the prediction is taken for the reference.
    """
    given = prediction.strip()
    if as_original:
        return float(any(is_close(answer, given) for answer in answers))
    return float(any(is_close(given, answer) for answer in answers))
