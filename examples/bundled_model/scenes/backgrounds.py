"""What stands behind the objects, and the last touch over the whole image: contrast, brightness and noise.

All draw on a float32 canvas [size, size, 3] in 0..255. Positions inside are fractions of the side, so that a background
looks the same at any size.
"""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache
from typing import Callable

import numpy as np
from PIL import Image


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixel centers in 0..1, float32 [1, size] and [size, 1]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


def _color(rng: np.random.Generator) -> np.ndarray:
    """A muted color, float32 [3]: less saturated than the tints of the objects."""
    hue, saturation, value = rng.random(), 0.5 * rng.random() ** 1.3, rng.uniform(0.35, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * 255.0


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``weight`` [size, size] of the second color over the first."""
    return first + (second - first) * weight[..., None]


def _near(rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
    """A color not far from the given one, so that patterns stay in the background."""
    return np.clip(color + rng.uniform(-45, 45) + rng.uniform(-15, 15, 3), 20, 255).astype(np.float32)


def _along(rng: np.random.Generator, size: int) -> np.ndarray:
    """A coordinate that grows in a random direction, float32 [size, size]."""
    x, y = _axes(size)
    angle = rng.uniform(0, 2 * math.pi)
    return math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5)


def plain(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.broadcast_to(_color(rng), (size, size, 3)).astype(np.float32)


def gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    return _blend(_color(rng), _color(rng), np.clip(_along(rng, size) + 0.5, 0, 1))


def stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    base = _color(rng)
    phase = _along(rng, size) * rng.uniform(4, 14) + rng.random()
    return _blend(base, _near(rng, base), (phase % 1.0 < 0.5).astype(np.float32))


def checks(rng: np.random.Generator, size: int) -> np.ndarray:
    base, count = _color(rng), rng.uniform(4, 12)
    x, y = _axes(size)
    odd = (np.floor(x * count + rng.random()) + np.floor(y * count + rng.random())) % 2
    return _blend(base, _near(rng, base), odd.astype(np.float32))


def blobs(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = int(rng.integers(3, 11))
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    weight = np.clip(np.asarray(coarse.resize((size, size), Image.BICUBIC)), 0, 1)
    base = _color(rng)
    return _blend(base, _near(rng, base) if rng.random() < 0.5 else _color(rng), weight)


def sky_and_ground(rng: np.random.Generator, size: int) -> np.ndarray:
    _, y = _axes(size)
    horizon = rng.uniform(0.3, 0.75)
    sky = np.array([rng.uniform(120, 200), rng.uniform(180, 225), rng.uniform(215, 255)], np.float32)
    grounds = ((150, 190, 110), (190, 175, 140), (150, 150, 155), (120, 150, 110), (215, 200, 160))
    ground = np.array(grounds[int(rng.integers(len(grounds)))], np.float32) + rng.uniform(-20, 20)
    pale = sky + (255 - sky) * np.clip(y / horizon, 0, 1)[..., None] * 0.6
    column = np.where((y < horizon)[..., None], pale, ground * (1.12 - 0.25 * y[..., None]))
    return np.repeat(column.astype(np.float32), size, axis=1)


KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    plain, gradient, stripes, checks, blobs, sky_and_ground,
)  # fmt: skip


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random background, float32 [size, size, 3]."""
    return KINDS[int(rng.integers(len(KINDS)))](rng, size)


def finish(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast, brightness and mild grain over the whole image; returns uint8 [size, size, 3]."""
    contrast, brightness = rng.uniform(0.85, 1.12), rng.uniform(-14, 14)
    grain = rng.uniform(0, 6)
    canvas *= np.float32(contrast)
    canvas += np.float32(128 - 128 * contrast + brightness)
    canvas += rng.standard_normal((canvas.shape[0], canvas.shape[1], 1), dtype=np.float32) * np.float32(grain)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
