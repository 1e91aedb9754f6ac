"""Exact match (OCR-VQA, AI2D): equal but for case and surrounding space. Source: the original's evaluation."""

from __future__ import annotations

from collections.abc import Sequence


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the prediction equals one of the answers, else 0.0."""
    given = prediction.strip().lower()
    return float(any(given == answer.strip().lower() for answer in answers))
