"""The page: a table of all scores, then each benchmark with its categories and its worst cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...errors import OutputError
from ...utils.files import write_text
from ..progress import score_text
from ..records import Score
from ..scoring import Result
from ..settings import fingerprint
from .cases import case, worst_questions
from .style import STYLE

_HEAD = (
    "Benchmark", "Questions", "Score, 95 % interval", "", "As the original", "Published", "Protocol",
)  # fmt: skip


def write_report(path: Path, results: Sequence[Result], worst: int = 12) -> None:
    """Write the page.

    Args:
        path: of the file.
        results: of all benchmarks.
        worst: how many of its worst cases are shown of each.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, report(results, worst))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def report(results: Sequence[Result], worst: int = 12) -> str:
    """The page as HTML."""
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    rows = "".join(_row(result) for result in results)
    sections = "".join(_section(result, worst) for result in results)
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Evaluation</title>
<style>{STYLE}</style>
<h1>Evaluation</h1>
<p class=soft>Bars: our score with its interval in blue, published scores in orange. A published score compares only
where questions and protocol are the same.</p>
<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
{sections}
</html>
"""


def _row(result: Result) -> str:
    count = f"{len(result.questions):,}" + (f" of {result.total:,}" if result.is_sample else "")
    cells = [
        f'<a href="#{_anchor(result)}">{escape(result.title)}</a><br><small>{escape(result.benchmark.metric)}</small>',
        f"<span class=number>{count}</span>",
        _score(result.score),
        "" if result.score is None else _bar(result.score, list(result.published.values())),
        _score(result.original),
        _published(result),
        f"{escape(result.protocol)}<br><small>{fingerprint(result.settings)}</small>",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _score(score: Score | None) -> str:
    value, _, interval = ("–" if score is None else score_text(score)).partition(" (")
    return f"{escape(value)}<br><small>{escape(interval.rstrip(')'))}</small>"


def _published(result: Result) -> str:
    """Published scores with our difference; a note where they are of something else."""
    lines = []
    for model, value in result.published.items():
        difference = "" if result.score is None else f" ({result.score.value - value:+.1f})"
        lines.append(f"{escape(model)} {value:g}{difference}")
    if result.published and result.is_sample:
        lines.append("<small>of all questions; ours is a sample</small>")
    note = result.benchmark.split(result.split).published_note
    if note:
        lines.append(f"<small>{escape(note)}</small>")
    return "<br>".join(lines) or "–"


def _bar(score: Score, published: Sequence[float]) -> str:
    """A scale from 0 to 100, or to what holds every number."""
    top = max([100.0, score.value, *published])
    low, high = score.interval or (score.value, score.value)
    places = [_place(value, top) for value in published]
    marks = "".join(f'<rect class=published x="{place}" y="2" width="1" height="16"/>' for place in places)
    return (
        '<svg class=bar viewBox="0 0 200 20"><rect class=ground x=".5" y="5" width="199" height="10"/>'
        f'<rect class=interval x="{_place(low, top)}" y="5" width="{_place(max(0.0, high - low), top)}" height="10"/>'
        f'{marks}<rect class=ours x="{_place(score.value, top)}" y="2" width="2" height="16"/></svg>'
    )


def _place(value: float, top: float) -> str:
    return f"{198 * max(0.0, value) / top:.1f}"


def _section(result: Result, worst: int) -> str:
    parts = [f'<h2 id="{_anchor(result)}">{escape(result.title)}</h2>']
    notes = [*result.notes, *(result.score.notes if result.score else ())]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    if result.score is not None:
        parts.append(_others(result.score))
        parts.append(_categories(result.score, result.original))
    questions = worst_questions(result, worst)
    if questions:
        cases = "".join(case(result, question) for question in questions)
        boxes = any("bbox" in question.metadata for question in questions)
        words = " True boxes are green, given ones red and dashed." if boxes else ""
        parts.append(
            f"<h3>Worst cases</h3><p class=soft>Those with the least credit.{words}</p><div class=cases>{cases}</div>"
        )
    settings = escape(json.dumps(result.settings, indent=2, ensure_ascii=False))
    parts.append(f"<details><summary>Settings of the run</summary><pre>{settings}</pre></details>")
    return "".join(parts)


def _others(score: Score) -> str:
    if not score.others:
        return ""
    return "<p>" + escape("; ".join(f"{name}: {value:.2f}" for name, value in score.others.items())) + "</p>"


def _categories(score: Score, original: Score | None) -> str:
    if not score.by_category:
        return ""
    rows = ""
    for name, part in score.by_category.items():
        theirs = original.by_category.get(name) if original is not None else None
        cells = [
            escape(name),
            f"<span class=number>{part.n:,}</span>",
            _score(part),
            _bar(part, []),
            "" if theirs is None else _score(theirs),
        ]
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    head = "<tr><th>Category</th><th>Questions</th><th>Score</th><th></th><th>As the original</th></tr>"
    if original is None:
        head = head.replace("<th>As the original</th>", "<th></th>")
    return f"<h3>By category</h3><div class=wide><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _anchor(result: Result) -> str:
    return escape(result.title.replace(" ", "-"))
