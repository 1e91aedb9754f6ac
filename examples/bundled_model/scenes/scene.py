"""Draws scenes: a background, one to five objects, now and then a sign with a word, all decided by one seed.

The layout (what stands where) depends on the seed alone; ``size`` only says how finely it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from paddlemix.errors import ConfigurationError

from . import backgrounds
from .glyphs import Glyph, load_glyph, load_word
from .lexicon import ALL_STYLES, COLORS, KIND_INDEX, KINDS, STYLES, WORDS_EN, WORDS_ZH

MIN_SIZE = 32
MAX_OBJECTS = 5
SIDE_RANGE = (0.12, 0.40)  # longest side of an object's box, as a part of the image's side
MAX_TILT = math.radians(20)
GRID = 6  # no two objects have their centers in the same cell of a GRID x GRID raster
MIN_CENTER_DISTANCE = 0.14
MAX_OVERLAP = 0.15  # part of the smaller of two boxes that the other may cover
SIGN_HEIGHTS = (0.12, 0.16)
MAX_SIGN_WIDTH = 0.6  # a long word gets a lower sign, so that there is room for objects

P_REPEATED_KIND = 0.15
P_TINTED = 0.5
P_SIGN = 0.25
P_CHINESE_SIGN = 0.3
P_MIXED_STYLES = 0.3

BoxF = tuple[float, float, float, float]


@dataclass(frozen=True)
class PlacedObject:
    """An object in a scene.

    ``kind`` is an index into ``ALL_KINDS``, ``box`` is (x1, y1, x2, y2) in [0, 1], ``color`` an index into ``COLORS``
    or None.
    """

    kind: int
    box: BoxF
    color: int | None
    style: str
    tilt: float
    mirrored: bool

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Sign:
    """A printed word and the box of the plate it stands on."""

    word: str
    box: BoxF


@dataclass(frozen=True)
class Scene:
    """An image and what is in it: ``image`` is uint8 [size, size, 3]; ``objects`` are in the order of drawing."""

    seed: int
    image: np.ndarray
    objects: tuple[PlacedObject, ...]
    sign: Sign | None

    def pil(self) -> Image.Image:
        return Image.fromarray(self.image)

    def left_to_right(self) -> list[PlacedObject]:
        return sorted(self.objects, key=lambda placed: placed.center)

    def unique(self) -> list[PlacedObject]:
        """The objects whose kind stands only once in the scene."""
        kinds = [placed.kind for placed in self.objects]
        return [placed for placed in self.objects if kinds.count(placed.kind) == 1]


def generate_scene(
    seed: int,
    *,
    size: int = 168,
    num_objects: int | None = None,
    style: str | None = None,
    kinds: Sequence[str] | None = None,
    sign: bool | None = None,
) -> Scene:
    """The scene of ``seed``.

    Args:
        seed: non-negative; the same seed and arguments always give the same scene.
        size: side of the image in pixels, at least 32.
        num_objects: 1 to 5; drawn uniformly if None.
        style: one of ``lexicon.ALL_STYLES`` for all objects; a mixture of ``STYLES`` if None.
        kinds: English names that must be among the objects, out of ``ALL_KINDS``; the rest is drawn from ``KINDS``.
        sign: whether a printed word stands in the scene; in a quarter of the scenes if None.

    Raises:
        ConfigurationError: an argument is out of range or unknown.
    """
    _check(size, num_objects, style, kinds or ())
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    if num_objects is not None:
        count = num_objects
    chosen = _choose_kinds(rng, max(count, len(kinds or ())), kinds)
    styles = _choose_styles(rng, len(chosen), style)
    has_sign = bool(rng.random() < P_SIGN)
    if sign is not None:
        has_sign = sign
    placed_sign = _place_sign(rng) if has_sign else None
    objects = _place_objects(rng, chosen, styles, placed_sign)

    texture = np.random.default_rng([seed, 1])
    canvas = backgrounds.draw(texture, size)
    if placed_sign is not None:
        _draw_sign(canvas, placed_sign, texture)
    for placed in objects:
        _draw_object(canvas, placed)
    return Scene(seed, backgrounds.finish(canvas, texture), tuple(objects), placed_sign)


def _check(size: int, num_objects: int | None, style: str | None, kinds: Sequence[str]) -> None:
    if size < MIN_SIZE:
        raise ConfigurationError(f"size is {size}; a scene needs at least {MIN_SIZE} pixels a side")
    if num_objects is not None and not 1 <= num_objects <= MAX_OBJECTS:
        raise ConfigurationError(f"num_objects is {num_objects}; a scene has 1 to {MAX_OBJECTS} objects")
    if len(kinds) > MAX_OBJECTS:
        raise ConfigurationError(f"kinds has {len(kinds)} names; a scene has at most {MAX_OBJECTS} objects")
    if style is not None and style not in ALL_STYLES:
        raise ConfigurationError(f"style is {style!r}; known styles: {', '.join(ALL_STYLES)}")
    for name in kinds:
        if name not in KIND_INDEX:
            raise ConfigurationError(f"kinds has {name!r}; known kinds: {', '.join(KIND_INDEX)}")


def _choose_kinds(rng: np.random.Generator, count: int, required: Sequence[str] | None) -> list[int]:
    chosen = [KIND_INDEX[name] for name in required or ()]
    others = [int(kind) for kind in rng.permutation(len(KINDS)) if kind not in chosen]
    repeat = rng.random() < P_REPEATED_KIND
    missing = count - len(chosen)
    if repeat and missing >= 2:
        times = int(rng.integers(2, missing + 1))
        return chosen + [others[0]] * times + others[1 : 1 + missing - times]
    return chosen + others[:missing]


def _choose_styles(rng: np.random.Generator, count: int, style: str | None) -> list[str]:
    mixed = rng.random() < P_MIXED_STYLES
    drawn = [STYLES[index] for index in rng.integers(len(STYLES), size=count)]
    if style is not None:
        return [style] * count
    return drawn if mixed else drawn[:1] * count


# --- layout


def _rotated_outline(glyph: Glyph, tilt: float, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest (x, y) of the drawing, mirrored and turned, in pixels of its first level around its center."""
    x, y = glyph.outline[:, 0] * (-1 if mirrored else 1), glyph.outline[:, 1]
    turned = np.stack([math.cos(tilt) * x - math.sin(tilt) * y, math.sin(tilt) * x + math.cos(tilt) * y], 1)
    return turned.min(0), turned.max(0)


def _fits(box: BoxF, others: Sequence[BoxF], sign: BoxF | None) -> bool:
    if sign is not None and _covered(box, sign) > 0.02:
        return False
    center_x, center_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for other in others:
        other_x, other_y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
        if math.hypot(center_x - other_x, center_y - other_y) < MIN_CENTER_DISTANCE:
            return False
        if int(GRID * center_x) == int(GRID * other_x) and int(GRID * center_y) == int(GRID * other_y):
            return False
        if _covered(box, other) > MAX_OVERLAP:
            return False
    return True


def _covered(a: BoxF, b: BoxF) -> float:
    """The part of the smaller box that lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _place_objects(
    rng: np.random.Generator, chosen: Sequence[int], styles: Sequence[str], sign: Sign | None
) -> list[PlacedObject]:
    sign_box = sign.box if sign is not None else None
    while True:
        placed: list[PlacedObject] = []
        for kind, style in zip(chosen, styles):
            candidate = _place_object(rng, kind, style, [other.box for other in placed], sign_box)
            if candidate is None:
                break
            placed.append(candidate)
        else:
            return placed


def _place_object(
    rng: np.random.Generator, kind: int, style: str, others: Sequence[BoxF], sign: BoxF | None
) -> PlacedObject | None:
    """Tries places for one object, smaller ones as it gets harder; None if the image is too full."""
    tilt = float(rng.uniform(-MAX_TILT, MAX_TILT))
    mirrored = bool(rng.random() < 0.5)
    color = int(rng.integers(len(COLORS))) if rng.random() < P_TINTED else None
    low, high = _rotated_outline(load_glyph(style, kind), tilt, mirrored)
    shape = (high - low) / float((high - low).max())
    side = float(rng.uniform(*SIDE_RANGE))
    for attempt in range(40):
        if attempt and attempt % 8 == 0:
            side = float(rng.uniform(SIDE_RANGE[0], side))
        width, height = float(shape[0]) * side, float(shape[1]) * side
        x, y = float(rng.uniform(0, 1 - width)), float(rng.uniform(0, 1 - height))
        box = (x, y, x + width, y + height)
        if _fits(box, others, sign):
            return PlacedObject(kind, box, color, style, tilt, mirrored)
    return None


def _place_sign(rng: np.random.Generator) -> Sign:
    words = WORDS_ZH if rng.random() < P_CHINESE_SIGN else WORDS_EN
    word = words[int(rng.integers(len(words)))]
    mask = load_word(word)
    shape = 0.62 * mask.width / mask.height + 0.30
    height = min(float(rng.uniform(*SIGN_HEIGHTS)), MAX_SIGN_WIDTH / shape)
    width = height * shape
    x, y = float(rng.uniform(0.01, 0.99 - width)), float(rng.uniform(0.01, 0.99 - height))
    return Sign(word, (x, y, x + width, y + height))


# --- drawing on a float32 canvas [size, size, 3] in 0..255


def _draw_object(canvas: np.ndarray, placed: PlacedObject) -> None:
    size = canvas.shape[0]
    glyph = load_glyph(placed.style, placed.kind, placed.color)
    low, high = _rotated_outline(glyph, placed.tilt, placed.mirrored)
    x1, y1, x2, y2 = (side * size for side in placed.box)
    scale = max(x2 - x1, y2 - y1) / float((high - low).max())
    # The drawing's own center: the box's center less the (scaled) center of the turned outline.
    center_x, center_y = (
        (x1 + x2) / 2 - scale * float(low[0] + high[0]) / 2,
        (y1 + y2) / 2 - scale * float(low[1] + high[1]) / 2,
    )
    left, top = max(0, math.floor(x1) - 1), max(0, math.floor(y1) - 1)
    right, bottom = min(size, math.ceil(x2) + 1), min(size, math.ceil(y2) + 1)

    source, full = glyph.level(scale), glyph.levels[0]
    # Source pixels per canvas pixel.
    per_x, per_y = source.width / full.width / scale, source.height / full.height / scale
    flip = -1.0 if placed.mirrored else 1.0
    cos, sin = math.cos(placed.tilt), math.sin(placed.tilt)
    # Affine map from the patch's pixels back to the source: undo the shift, the turn, the mirror, the scale.
    a, b = flip * cos * per_x, flip * sin * per_x
    d, e = -sin * per_y, cos * per_y
    dx, dy = left - center_x, top - center_y
    c, f = a * dx + b * dy + source.width / 2, d * dx + e * dy + source.height / 2
    patch = source.transform((right - left, bottom - top), Image.AFFINE, (a, b, c, d, e, f), resample=Image.BILINEAR)
    pixels = np.asarray(patch)
    region = canvas[top:bottom, left:right]
    region *= 1.0 - pixels[..., 3:].astype(np.float32) / 255.0
    region += pixels[..., :3]


_SIGN_PAIRS = (  # plate, ink
    ((250, 250, 246), (28, 28, 34)),
    ((34, 40, 52), (246, 246, 240)),
    ((28, 84, 168), (255, 255, 255)),
    ((190, 30, 36), (255, 255, 255)),
    ((246, 208, 48), (30, 28, 24)),
    ((26, 118, 70), (250, 250, 250)),
)


@lru_cache(maxsize=1024)
def _word_at(word: str, width: int, height: int) -> np.ndarray:
    """Ink of a word at a size, float32 [height, width, 1] in 0..1."""
    mask = load_word(word).resize((width, height), Image.LANCZOS)
    return (np.asarray(mask, dtype=np.float32) / 255.0)[..., None]


def _draw_sign(canvas: np.ndarray, sign: Sign, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    plate, ink = _SIGN_PAIRS[int(rng.integers(len(_SIGN_PAIRS)))]
    left, top, right, bottom = (round(side * size) for side in sign.box)
    edge = max(1, round(0.008 * size))
    canvas[top:bottom, left:right] = ink
    canvas[top + edge : bottom - edge, left + edge : right - edge] = plate
    height = round(0.62 * (bottom - top))
    mask = load_word(sign.word)
    width = min(round(mask.width / mask.height * height), right - left - 2 * edge)
    x, y = (left + right - width) // 2, (top + bottom - height) // 2
    cover = _word_at(sign.word, width, height)
    region = canvas[y : y + height, x : x + width]
    region += (np.array(ink, np.float32) - region) * cover
