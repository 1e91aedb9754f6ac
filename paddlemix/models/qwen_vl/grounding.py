"""Grounding boxes: their grammar, intersection over union, and drawing.

The model marks a phrase and its boxes as ``<ref>the bus</ref><box>(178,279),(806,884)</box>``: the upper left and the
lower right corner, in thousandths of the image's width and height. Four-cornered regions come as ``<quad>``.

Three readers share the grammar: :func:`parse` for answers (lenient, puts right what it can), :func:`exact_points` and
:func:`exact_boxes` for records and scores (the published form and no other), :func:`original_corners` for what the
original's tokenizer accepts. :func:`box_text` writes.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT_FILE = Path(__file__).resolve().parents[2] / "media" / "fonts" / "PaddleMIXLabelCJK-Regular.otf"
"""The shipped font for labels in English, Chinese and Japanese."""

PALETTE = (
    (255, 82, 82),
    (64, 169, 255),
    (61, 220, 132),
    (255, 167, 38),
    (199, 125, 255),
    (255, 225, 77),
    (46, 230, 230),
    (255, 122, 198),
    (181, 229, 80),
    (217, 160, 102),
)
"""Colors (RGB) of drawn boxes: one per label in order of appearance, starting over after ten."""

SCALE = 1000
"""Coordinates are in this many parts of the image's width or height."""

POINTS = {"box": 2, "quad": 4}
"""Number of points of each kind of region."""

_POINT = r"\((-?\d{1,99}),(-?\d{1,99})\)"  # int() refuses thousands of digits
BOX_PATTERN = r"<box>\((\d{1,99}),(\d{1,99})\),\((\d{1,99}),(\d{1,99})\)</box>"
"""A box as the model was taught to write it; four groups."""

_EXACT = {count: re.compile(",".join([_POINT] * count)) for count in POINTS.values()}
_EXACT_BOX = re.compile(BOX_PATTERN)
_TAGGED = re.compile(
    r"<ref>(?P<ref>[^<]*(?:<(?!/?(?:ref|box|quad)>)[^<]*)*)</ref>"
    r"|<(?P<kind>box|quad)>(?P<place>[^<]*)(?P<end></(?P=kind)>|(?:<(?:/[a-z]*)?)?$)"
)
_PLACE = re.compile(r"[\d\s(),.（），-]*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WORD = re.compile(r"\w")
_REMOVED = re.compile(
    r"<(box|quad)>[^<]*</\1>|<(?:box|quad)>[\d\s(),.（），-]*(?:<(?:/[a-z]*)?)?$|</?(?:ref|box|quad)>"
)


@dataclass(frozen=True)
class Box:
    """A region of an image: corners in thousandths of its width (x) and height (y).

    Attributes:
        label: the phrase that it belongs to, if any.
        x1: left side.
        y1: upper side.
        x2: right side, at least ``x1``.
        y2: lower side, at least ``y1``.
    """

    label: str | None
    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) in thousandths."""
        return self.x1, self.y1, self.x2, self.y2

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) in whole pixels of an image of that size, rounded down as the original does."""
        x1, x2 = (int(x / SCALE * width) for x in (self.x1, self.x2))
        y1, y2 = (int(y / SCALE * height) for y in (self.y1, self.y2))
        return x1, y1, x2, y2


def parse(text: str) -> list[Box]:
    """The boxes of an answer, in order. Never raises; what is not a box is passed over.

    A label is the ``<ref>`` before a box; further boxes share it as long as no word stands between them (the original
    names only the first). Other boxes have the label None. Swapped corners are put right, coordinates outside 0..1000
    are moved to the nearest end, fractions rounded. A ``<quad>`` gives the box around its four corners. A last box
    whose end tag was cut off counts when its coordinates are complete.
    """
    boxes = []
    label: str | None = None
    done = 0
    for match in _TAGGED.finditer(text):
        if _WORD.search(text, done, match.start()):
            label = None
        done = match.end()
        if match["ref"] is not None:
            label = match["ref"].strip() or None
            continue
        # without its end tag the last number may have been cut short, unless its bracket is closed
        complete = match["end"].endswith(">") or match["place"].rstrip().endswith((")", "）"))
        corners = _corners(match["place"], points=POINTS[match["kind"]])
        if complete and corners is not None:
            boxes.append(Box(label, *corners))
    return boxes


def _corners(place: str, points: int) -> tuple[int, int, int, int] | None:
    """The box around ``(x,y),(x,y)..``; None unless there are exactly that many points."""
    # float, not int: it takes numbers of any length
    values = [round(min(max(float(number), 0.0), SCALE)) for number in _NUMBER.findall(place)]
    if len(values) != 2 * points or not _PLACE.fullmatch(place):
        return None
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def exact_points(content: str, kind: str) -> list[tuple[int, int]] | None:
    """The points of ``(x1,y1),(x2,y2)..`` in exactly that form, whole numbers without spaces; None for anything else.

    Args:
        content: what stands between the tags.
        kind: ``"box"`` (two points) or ``"quad"`` (four).
    """
    match = _EXACT[POINTS[kind]].fullmatch(content)
    if match is None:
        return None
    values = [int(value) for value in match.groups()]
    points = list(zip(values[::2], values[1::2]))
    # Not (007,1), (-0,1) or digits of another script.
    return points if content == points_text(points) else None


def exact_boxes(text: str) -> list[tuple[int, int, int, int]]:
    """The corners (x1, y1, x2, y2), as written, of every ``<box>`` of a text in the published form."""
    found = (tuple(map(int, match.groups())) for match in _EXACT_BOX.finditer(text))
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in found]


def original_corners(content: str) -> tuple[int, int, int, int] | None:
    """What the original's tokenizer reads between ``<box>`` and ``</box>``: four integers; None for anything else."""
    try:
        x1, y1, x2, y2 = (int(value) for value in content.replace("(", "").replace(")", "").split(","))
    except ValueError:
        return None
    return x1, y1, x2, y2


def points_text(points: Iterable[tuple[int, int]]) -> str:
    """``(x1,y1),(x2,y2)``."""
    return ",".join(f"({x},{y})" for x, y in points)


def box_text(coordinates: Sequence[int], tag: str = "box") -> str:
    """``<box>(x1,y1),(x2,y2)</box>`` of x and y in turn; a ``<quad>`` takes eight coordinates."""
    return f"<{tag}>{points_text(zip(coordinates[::2], coordinates[1::2]))}</{tag}>"


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2), 0 to 1; 0 for empty ones and swapped corners."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def strip(text: str) -> str:
    """The answer as plain text: the contents of ``<ref>`` stay, boxes and quads go, and so do tags left alone."""
    return _REMOVED.sub("", text)


def draw(
    image: Image.Image,
    boxes: Iterable[Box],
    line_width: int | None = None,
    font_size: int | None = None,
    colors: Sequence[int] | None = None,
) -> Image.Image:
    """A copy of the image (RGB, same size) with the boxes and their labels drawn into it.

    Boxes of one label share a color. Labels stand on dark ground at the upper left corner of their box, moved so that
    they are wholly inside the image and, where there is room, off each other; too long ones are cut with an ellipsis.
    ``line_width`` and ``font_size`` are in pixels, by default in proportion to the image. ``colors``, one number per
    box, say instead which entry of :data:`PALETTE` it is drawn in.
    """
    result = image.convert("RGB")
    if result is image:
        result = image.copy()
    boxes = list(boxes)
    side = math.sqrt(result.width * result.height)
    line_width = line_width if line_width is not None else max(2, round(side / 160))
    font_size = font_size if font_size is not None else max(12, round(side / 30))
    colors = _numbered([box.label for box in boxes]) if colors is None else colors
    palette = [PALETTE[number % len(PALETTE)] for number in colors]
    canvas = ImageDraw.Draw(result, "RGBA")
    for box, color in zip(boxes, palette):
        _draw_outline(canvas, _inside(box, result.size), color, line_width)
    # labels last: no outline runs through them
    placed: list[tuple[int, int, int, int]] = []
    for box, color in zip(boxes, palette):
        if box.label:
            corners = _inside(box, result.size)
            _draw_label(canvas, box.label, corners, color, font_size, result.size, placed)
    return result


def _numbered(labels: Sequence[str | None]) -> list[int]:
    """A number for each label: equal ones share it, in order of appearance."""
    order = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixel corners within the image, also of boxes made by hand with swapped or too large coordinates."""
    x1, x2 = sorted(min(max(x, 0), SCALE) for x in (box.x1, box.x2))
    y1, y2 = sorted(min(max(y, 0), SCALE) for y in (box.y1, box.y2))
    x1, y1, x2, y2 = Box(None, x1, y1, x2, y2).pixels(*size)
    right, bottom = size[0] - 1, size[1] - 1
    return min(x1, right), min(y1, bottom), min(x2, right), min(y2, bottom)


def _draw_outline(
    canvas: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], color: tuple[int, int, int], width: int
) -> None:
    x1, y1, x2, y2 = corners
    # a dark rim outside keeps the line visible on a ground of its own color
    canvas.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0, 160), width=1)
    width = max(1, min(width, (min(x2 - x1, y2 - y1) + 1) // 2))
    canvas.rectangle(corners, outline=color, width=width)


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    label: str,
    corners: tuple[int, int, int, int],
    color: tuple[int, int, int],
    font_size: int,
    size: tuple[int, int],
    placed: list[tuple[int, int, int, int]],
) -> None:
    padding = max(1, font_size // 6)
    text = "".join(c for c in " ".join(label.split())[:200] if c.isprintable())
    fitted = _fit(text, font_size, size[0] - 2 * padding, size[1] - 2 * padding)
    if fitted is None:
        return
    text, font = fitted
    top, bottom = _line_extent(font)
    width, height = math.ceil(font.getlength(text)) + 2 * padding, bottom - top + 2 * padding
    x1, y1, _, y2 = corners
    x = min(x1, size[0] - width)
    spots = [(x, y) for y in (y1 - height, y1, y2 - height, y2) if 0 <= y <= size[1] - height]
    spots = spots or [(x, min(max(y1, 0), size[1] - height))]
    free = (spot for spot in spots if not any(_overlap((*spot, spot[0] + width, spot[1] + height), p) for p in placed))
    x, y = next(free, spots[0])
    placed.append((x, y, x + width, y + height))
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=(0, 0, 0, 205))
    canvas.text((x + padding, y + padding - top), text, font=font, fill=color)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _fit(text: str, font_size: int, width: int, height: int) -> tuple[str, ImageFont.FreeTypeFont] | None:
    """The text and a font in which it fits: smaller first, then shortened; None where not one letter fits."""
    sizes = [size for size in (font_size, round(font_size * 0.8), round(font_size * 0.65), 10, 8) if size <= font_size]
    fonts = [font for font in map(_font, sizes) if _line_extent(font)[1] - _line_extent(font)[0] <= height]
    if not text or not fonts:
        return None
    # below about two thirds of the usual size, a shortened label is easier to read than a smaller one
    fonts = fonts[:3]
    for font in fonts:
        if font.getlength(text) <= width:
            return text, font
    for length in range(len(text) - 1, 0, -1):
        shortened = text[:length].rstrip() + "…"
        if fonts[-1].getlength(shortened) <= width:
            return shortened, fonts[-1]
    return None


def _line_extent(font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Top and bottom of a line below the text origin: the same for all labels of a size, whatever letters they hold."""
    _, top, _, bottom = font.getbbox("Åg公", anchor="la")
    return int(top), int(bottom)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # the basic layout engine is in every build of Pillow, so images come out the same everywhere
    return ImageFont.truetype(str(FONT_FILE), size, layout_engine=ImageFont.Layout.BASIC)
