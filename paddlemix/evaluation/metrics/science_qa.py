"""ScienceQA: accuracy by subject, context, grade and topic.

Source: Lu et al., "Learn to Explain" (2022), and the authors' script.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

_SUBJECTS = {"natural science": "natural", "social science": "social", "language science": "language"}


def science_qa_groups(problems: Mapping[str, Mapping[str, Any]], predictions: Mapping[str, int]) -> dict[str, float]:
    """Percentages with two decimals, by the script's names such as ``acc_natural``; groups of nothing are left out.

    Args:
        problems: by id; those of other parts than "test" do not count.
        predictions: number of the chosen option, by id.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    for id_, problem in problems.items():
        if id_ in predictions and problem.get("split", "test") == "test":
            hit = predictions[id_] == problem["answer"]
            for group in groups_of(problem):
                hits[group].append(hit)
    return {f"acc_{group}": float(f"{100 * sum(part) / len(part):.2f}") for group, part in hits.items()}


def groups_of(problem: Mapping[str, Any]) -> list[str]:
    """The groups that a problem counts in."""
    has_text, has_image = bool(problem.get("hint")), bool(problem.get("image"))
    groups = ["average"]
    if problem.get("subject") in _SUBJECTS:
        groups.append(_SUBJECTS[problem["subject"]])
    groups += [name for name, holds in (("has_text", has_text), ("has_image", has_image)) if holds]
    if not (has_text or has_image):
        groups.append("no_context")
    grade = str(problem.get("grade", "")).removeprefix("grade")
    if grade.isdecimal():
        groups.append("grade_1_6" if int(grade) <= 6 else "grade_7_12")
    if problem.get("topic"):
        groups.append(problem["topic"])
    return groups
