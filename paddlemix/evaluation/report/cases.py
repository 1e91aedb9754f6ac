"""The questions of a run that went worst, each with its image and its boxes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from ...errors import ImageError
from ...media.loading import load_image
from ...media.policy import ImagePolicy
from ...utils.display import shorten
from ..metrics.choice import choose
from ..metrics.grounding import parse_box
from ..records import Answer, Question
from ..sampling import hash_order
from ..scoring import Result

_SIDE = 360
_LOSSLESS_SIDE = 160
"""Images up to this side are shown pixel for pixel."""
_TEXT = 400


def worst_questions(result: Result, count: int) -> list[Question]:
    """The questions with the least credit, of equal ones a draw by hash; none that has full credit."""
    if result.score is None:
        return []
    credit = result.score.per_question
    best = max(1.0, *credit.values()) if credit else 0.0
    below = [question for question in result.questions if credit.get(question.id, best) < best]
    return sorted(below, key=lambda question: (credit[question.id], hash_order(2, question.id)))[:count]


def case(result: Result, question: Question) -> str:
    """One question as HTML."""
    answer = result.answers[question.id]
    text = "".join(part for part in question.prompt if isinstance(part, str))
    credit = "–" if result.score is None else f"{result.score.per_question.get(question.id, 0.0):.2g}"
    rows = [("asked", text.strip()), ("said", said(question, answer)), ("expected", expected(question))]
    lines = "".join(f"<dt>{name}</dt><dd>{_shown(value)}</dd>" for name, value in rows if value)
    caption = f"<figcaption><p>{_shown(question.id)}, credit {credit}</p><dl>{lines}</dl></figcaption>"
    return f"<figure>{_picture(question, answer)}{caption}</figure>"


def said(question: Question, answer: Answer) -> str:
    """The answer, or the choice that was made."""
    return question.choices[choose(answer.losses)].strip() if answer.losses else answer.text


def expected(question: Question) -> str:
    """The references, each once, the most frequent first."""
    references = sorted(set(question.references), key=lambda text: -question.references.count(text))
    return " | ".join(references)


def _picture(question: Question, answer: Answer) -> str:
    if question.image is None:
        return ""
    try:
        image = load_image(question.image.path, ImagePolicy()).convert("RGB")
    except ImageError as error:
        return f"<p class=missing>{_shown(str(error))}</p>"
    boxes = _true_box(question) + _given_box(question, answer)
    lines = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{boxes}</svg>' if boxes else ""
    small = " class=small" if max(image.size) <= _LOSSLESS_SIDE else ""
    return f'<div class=picture><img{small} alt="" src="{_data_url(image)}">{lines}</div>'


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS_SIDE:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_SIDE, _SIDE))
        image.save(buffer, "JPEG", quality=80)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _true_box(question: Question) -> str:
    box, width, height = (question.metadata.get(name) for name in ("bbox", "width", "height"))
    if not box or not width or not height:
        return ""
    return _rectangle([1000 * side / size for side, size in zip(box, (width, height) * 2)], "true")


def _given_box(question: Question, answer: Answer) -> str:
    corners = parse_box(answer.text) if "bbox" in question.metadata else None
    return "" if corners is None else _rectangle(corners, "given")


def _rectangle(corners: Sequence[float], kind: str) -> str:
    x1, y1, x2, y2 = corners
    return f'<rect class={kind} x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/>'


def _shown(text: str) -> str:
    return escape(shorten(text, _TEXT))
