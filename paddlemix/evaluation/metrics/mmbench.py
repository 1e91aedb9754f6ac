"""MMBench: a question is asked once for every rotation of its options.

Sources: Liu et al., "MMBench" (2023), its public board (strict), and the original's scripts (majority).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ROTATION = 1_000_000
LETTERS = "ABCDEFGH"
ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}


@dataclass(frozen=True)
class Row:
    """A question with its options in one order.

    Attributes:
        index: of the question, plus a million for each rotation.
        choices: texts of the options.
        answer: number of the right one; None where it is hidden.
        prediction: number of the chosen one.
        categories: that the question counts in.
    """

    index: int
    choices: Sequence[str]
    answer: int | None
    prediction: int
    categories: tuple[str, ...] = ()


def by_question(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Question -> its rows, the unrotated one first."""
    questions: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.index):
        questions[row.index % ROTATION].append(row)
    return dict(questions)


def circular_strict(rows: Iterable[Row]) -> dict[int, bool]:
    """Question -> whether every rotation was answered right."""
    return {index: all(row.prediction == row.answer for row in group) for index, group in by_question(rows).items()}


def majority_choice(group: Sequence[Row]) -> str:
    """The option that was chosen most often over a question's rotations; of equal ones, the earliest rotation's."""
    return Counter(row.choices[row.prediction] for row in group).most_common(1)[0][0]


def majority(rows: Iterable[Row]) -> dict[int, bool]:
    """Question -> whether the option chosen most often is the right one."""
    return {
        index: group[0].answer is not None and majority_choice(group) == group[0].choices[group[0].answer]
        for index, group in by_question(rows).items()
    }


def submission_letters(rows: Iterable[Row]) -> dict[int, str]:
    """Index of a row -> letter of the option chosen most often, in the order of that row."""
    letters = {}
    for group in by_question(rows).values():
        option = majority_choice(group)
        for row in group:
            letters[row.index] = LETTERS[list(row.choices).index(option)]
    return letters


def strict_by_category(rows: Sequence[Row], hits: Mapping[int, bool]) -> dict[str, list[bool]]:
    """Category -> the strict hits of its questions; categories of the second level by their usual abbreviations."""
    table: dict[str, list[bool]] = defaultdict(list)
    for index, group in by_question(rows).items():
        for category in group[0].categories:
            table[ABBREVIATIONS.get(category, category)].append(hits[index])
    return dict(table)
