"""Sample images of an evaluation: expected and generated boxes in two colors, the texts below the image."""

from __future__ import annotations

import re

from PIL import Image, ImageDraw, ImageFont

from ...models.qwen_vl import grounding
from ...models.qwen_vl.grounding import FONT_FILE, PALETTE

EXPECTED_COLOR, ANSWERED_COLOR = 2, 0  # entries of PALETTE: green, red

_SIDES = 448, 896  # pixels of the longer side: smaller images are enlarged, larger ones reduced
_GROUND, _INK, _PALE = (24, 26, 30), (238, 238, 238), (150, 154, 160)
_FONT_SIZE, _LINE, _MARGIN = 16, 23, 12  # pixels
_MAX_LINES = 6  # of one text

# A Chinese, Japanese or Korean letter with the comma or stop after it, or a word with its space.
_PIECE = re.compile(r"[\u2e80-\uffef][、。，；：！？）”]*|[^\s\u2e80-\uffef]+\s*|\s+")
_TAG = re.compile(r"</?(?:ref|box|quad)>")


def draw_sample(image: Image.Image, title: str, question: str, expected: str, answer: str) -> Image.Image:
    """Draw one sample: the image with the boxes of both answers, below it question, answers and title.

    Args:
        image: that the question is about.
        title: last line.
        question: with the model's tags.
        expected: the record's answer, with boxes in thousandths of the image.
        answer: the generated one, likewise.
    """
    expected_boxes, answered_boxes = grounding.parse(expected), grounding.parse(answer)
    colors = [EXPECTED_COLOR] * len(expected_boxes) + [ANSWERED_COLOR] * len(answered_boxes)
    drawn = grounding.draw(_resized(image.convert("RGB")), expected_boxes + answered_boxes, colors=colors)
    width = max(drawn.width, _SIDES[0])
    font = ImageFont.truetype(str(FONT_FILE), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    texts = [
        (f"?  {_plain(question)}", _INK),
        (f"■ expected  {_plain(expected)}", PALETTE[EXPECTED_COLOR]),
        (f"■ answered  {_plain(answer)}", PALETTE[ANSWERED_COLOR]),
        (title, _PALE),
    ]
    lines = [(line, ink) for text, ink in texts for line in _wrap(text, font, width - 2 * _MARGIN)]
    sheet = Image.new("RGB", (width, drawn.height + 2 * _MARGIN + _LINE * len(lines)), _GROUND)
    sheet.paste(drawn, ((width - drawn.width) // 2, 0))
    canvas = ImageDraw.Draw(sheet)
    for number, (line, ink) in enumerate(lines):
        canvas.text((_MARGIN, drawn.height + _MARGIN + number * _LINE), line, font=font, fill=ink)
    return sheet


def _resized(image: Image.Image) -> Image.Image:
    """Scaled, with its aspect ratio, so that the longer side is within the limits."""
    side = max(image.size)
    factor = min(max(side, _SIDES[0]), _SIDES[1]) / side
    return image.resize([max(1, round(length * factor)) for length in image.size], Image.Resampling.LANCZOS)


def _plain(text: str) -> str:
    """One line without tags: coordinates stay."""
    text = _TAG.sub("", text.replace("</ref>", " "))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "–"


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken at spaces and between Chinese letters; the last is cut short."""
    lines = [""]
    for piece in _PIECE.findall(text):
        for part in [piece] if font.getlength(piece.rstrip()) <= width else piece:
            if font.getlength((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
    if len(lines) > _MAX_LINES:
        lines = lines[:_MAX_LINES]
        while font.getlength(lines[-1] + "…") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines
