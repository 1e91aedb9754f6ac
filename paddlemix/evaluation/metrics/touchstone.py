"""TouchStone: a judge compares two answers twice, in both orders.

Source: Bai et al., "TouchStone" (2023), and the authors' scripts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

SCORES = (1.0, 10.0)
OVERALL = "TouchStone Overall Score"


def parse_reply(reply: str, *, as_original: bool = False) -> tuple[float, float] | None:
    """The two scores in the first line of a judge's reply, apart by one space; None for anything else.

    ``as_original``: numbers outside 1 to 10 and NaN pass.
    """
    words = reply.lstrip().split("\n")[0].strip().split(" ")
    if len(words) != 2:
        return None
    try:
        first, second = map(float, words)
    except ValueError:
        return None
    in_range = all(math.isfinite(score) and SCORES[0] <= score <= SCORES[1] for score in (first, second))
    return (first, second) if as_original or in_range else None


def touchstone_scores(
    rounds: Iterable[tuple[str, Mapping[str, float] | None]],
) -> dict[str, dict[str, float]]:
    """Mean scores times 100: overall and by category, by the name of who answered.

    Args:
        rounds: categories (with commas between them) and name -> score; None for a round that failed, which does not
            count.
    """
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for categories, scores in rounds:
        for group in (OVERALL, *categories.split(",")) if scores is not None else ():
            for name, score in (scores or {}).items():
                table[group][name].append(score)
    return {
        group: {name: 100 * sum(part) / len(part) for name, part in names.items()} for group, names in table.items()
    }
