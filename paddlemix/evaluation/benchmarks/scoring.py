"""From credits to a score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..records import Score
from ..statistics import mean_interval


def percentage(
    name: str,
    credits: Mapping[str, float],
    *,
    categories: Mapping[str, Iterable[str]] | None = None,
    others: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Score:
    """The mean of credits between 0 and 1, in percent, with its interval.

    Args:
        name: of the measure.
        credits: by question id.
        categories: question id -> the categories it counts in.
        others: further measures.
        notes: on the number.
    """
    parts: dict[str, list[float]] = defaultdict(list)
    for id_, names in (categories or {}).items():
        for category in names:
            parts[category].append(credits[id_])
    by_category = {category: _score(name, parts[category]) for category in sorted(parts)}
    whole = _score(name, list(credits.values()))
    return Score(
        name, whole.value, "%", whole.n, whole.interval, by_category, dict(credits), dict(others or {}), tuple(notes)
    )


def _score(name: str, credits: Sequence[float]) -> Score:
    low, high = mean_interval(credits)
    return Score(name, 100 * sum(credits) / len(credits), "%", len(credits), (100 * low, 100 * high))
