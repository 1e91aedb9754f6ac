"""The drawings: object glyphs at several sizes and tints, and the ink masks of printed words.

Everything is read once from the small atlases in ``assets/`` and kept: a scene has to be drawn in a millisecond or two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .lexicon import ALL_KINDS, COLORS

ASSETS = Path(__file__).resolve().parent / "assets"
MIP_STEP = 0.75  # each level has this fraction of the side of the one before
MIP_LEVELS = 8


@dataclass(frozen=True)
class Glyph:
    """One object's drawing, tinted or not.

    Attributes:
        levels: premultiplied images (PIL mode ``RGBa``), the first at full size, each next ``MIP_STEP`` times as large.
        outline: float32 [n, 2], the opaque pixels' corners that decide the extent, in pixels of the first level around
            its center.
    """

    levels: tuple[Image.Image, ...]
    outline: np.ndarray

    def level(self, scale: float) -> Image.Image:
        """The smallest level that still has at least as many pixels as ``scale`` times the full size needs."""
        index = 0
        while index + 1 < len(self.levels) and scale <= MIP_STEP ** (index + 1):
            index += 1
        return self.levels[index]


@cache
def _atlas(name: str) -> tuple[Image.Image, dict[str, tuple[int, int, int, int]]]:
    image = Image.open(ASSETS / f"{name}.png")
    image.load()
    return image, json.loads((ASSETS / f"{name}.json").read_text(encoding="utf-8"))


def _cut(atlas: str, key: str) -> Image.Image:
    image, places = _atlas(atlas)
    x, y, width, height = places[key]
    return image.crop((x, y, x + width, y + height))


def tint(glyph: Image.Image, rgb: tuple[int, int, int]) -> Image.Image:
    """``glyph`` (RGBA) in shades of one color: its mean luminance becomes ``rgb``, the rest darker or lighter."""
    pixels = np.asarray(glyph, dtype=np.float32)
    luminance = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255.0
    opaque = pixels[..., 3] >= 128
    spread = max(float(luminance[opaque].std()), 0.08)
    shade = np.clip((luminance - float(luminance[opaque].mean())) / (2.5 * spread), -1.0, 1.0)[..., None]
    middle = np.array(rgb, np.float32)
    dark, light = middle * 0.35, middle + (255.0 - middle) * 0.5
    tinted = np.where(shade < 0, middle + (dark - middle) * -shade, middle + (light - middle) * shade)
    return Image.fromarray(np.concatenate([tinted, pixels[..., 3:]], -1).astype(np.uint8))


def _outline(glyph: Image.Image) -> np.ndarray:
    """Corners of the leftmost and rightmost opaque pixel of each row: enough to find the extent at any rotation."""
    opaque = np.asarray(glyph.getchannel("A")) >= 128
    rows = np.flatnonzero(opaque.any(1))
    left = opaque[rows].argmax(1)
    right = glyph.width - opaque[rows, ::-1].argmax(1)
    x = np.concatenate([left, right, left, right])
    y = np.concatenate([rows, rows, rows + 1, rows + 1])
    points = np.stack([x - glyph.width / 2, y - glyph.height / 2], 1)
    return points.astype(np.float32)


@cache
def load_glyph(style: str, kind: int, color: int | None = None) -> Glyph:
    """The drawing of ``ALL_KINDS[kind]`` in ``style``, tinted with ``COLORS[color]`` unless that is None."""
    image = _cut(style, ALL_KINDS[kind].en).convert("RGBA")
    outline = _outline(image)
    if color is not None:
        image = tint(image, COLORS[color].rgb)
    image = image.convert("RGBa")
    levels = [image]
    for step in range(1, MIP_LEVELS):
        size = tuple(max(1, round(side * MIP_STEP**step)) for side in image.size)
        levels.append(image.resize(size, Image.LANCZOS))
    return Glyph(tuple(levels), outline)


@cache
def load_word(word: str) -> Image.Image:
    """The ink mask (PIL mode ``L``) of a printed word of the lexicon."""
    return _cut("words", word)
