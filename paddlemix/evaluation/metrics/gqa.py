"""GQA: accuracy by exact match, with the measures of the data set's evaluator.

Source: Hudson and Manning, "GQA" (2019), and its released evaluator, without validity and plausibility, which need a
file of choices. A generated answer is shortened to the words that can be an answer before it is compared.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FILLERS = ("is ", "are ", "a ", "an ", "the ")
_LEADING = re.compile(r"(?:.*\b(?:is|are)\b)?\s*(?:\b(?:a|an|the)\b\s*)?(?P<rest>.*)", re.DOTALL)
_NOT_A_STEP = ("exist", "query: name", "choose name")


def shorten(prediction: str, *, as_original: bool = False) -> str:
    """The part of an answer before punctuation and " of", behind "is", "are" and an article; lower case.

    ``as_original`` cuts at the same letters wherever they stand, also within words: "panda bear" becomes "bear".
    """
    text = prediction.strip().split(".")[0].split(",")[0].split("!")[0].lower()
    if as_original:
        for filler in _FILLERS:
            if filler in text:
                text = text.split(filler)[1]
        return text.split(" of")[0].strip()
    found = _LEADING.fullmatch(text.strip())
    rest = found["rest"].strip() if found else ""
    return re.split(r"\s+of\b", rest or text.strip())[0].strip()


def official_measures(questions: Mapping[str, Mapping[str, Any]], predictions: Mapping[str, str]) -> dict[str, Any]:
    """What the data set's evaluator prints: percentages, and tables of (percentage, questions).

    Args:
        questions: question id -> record of the data set's question file.
        predictions: by question id; those of entailed questions that are not balanced count for consistency alone.
    """
    hits: dict[str, list[float]] = defaultdict(list)
    tables: dict[str, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    gold: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for id_, question in questions.items():
        if not question["isBalanced"] or id_ not in predictions:
            continue
        hit = float(predictions[id_] == question["answer"])
        types = question["types"]
        hits["accuracy"].append(hit)
        hits["open" if types["structural"] == "query" else "binary"].append(hit)
        tables["per_structural_type"][types["structural"]].append(hit)
        tables["per_semantic_type"][types["semantic"]].append(hit)
        tables["per_words"][str(len(question["question"].split()))].append(hit)
        tables["per_steps"][str(_steps(question["semantic"]))].append(hit)
        group = question["groups"]["global"]
        if group is not None:
            gold[group][question["answer"]] += 1
            given[group][predictions[id_]] += 1
        entailed = [other for other in question["entailed"] if other != id_ and other in predictions]
        if hit and entailed:
            hits["consistency"].append(_mean(float(predictions[o] == questions[o]["answer"]) for o in entailed))
    names = ("accuracy", "binary", "open", "consistency")
    return {
        **{name: 100 * _mean(hits[name]) for name in names},
        "distribution": _chi_square(gold, given) / 100,
        **{name: {key: _percent_and_count(part) for key, part in table.items()} for name, table in tables.items()},
    }


def _steps(semantic: Iterable[Mapping[str, Any]]) -> int:
    """Reasoning steps: operations that do more than name what was found."""
    named = (f"{step['operation']}: {step['argument']}" for step in semantic)
    return sum(not any(word in text for word in _NOT_A_STEP) for text in named)


def _chi_square(gold: Mapping[str, Counter[str]], given: Mapping[str, Counter[str]]) -> float:
    """How far the answers' distribution is from the truth's, averaged over groups by their size."""
    total = sum(sum(counts.values()) for counts in gold.values())
    if not total:
        return 0.0
    return (
        sum(
            sum((given[group][answer] - count) ** 2 / count for answer, count in counts.items()) * sum(counts.values())
            for group, counts in gold.items()
        )
        / total
    )


def _percent_and_count(hits: Sequence[float]) -> tuple[float, int]:
    return 100 * _mean(hits), len(hits)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
