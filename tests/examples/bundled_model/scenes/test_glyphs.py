from __future__ import annotations

import colorsys

import numpy as np
import pytest

from examples.bundled_model.scenes.glyphs import ASSETS, MIP_STEP, load_glyph, load_word
from examples.bundled_model.scenes.lexicon import ALL_KINDS, ALL_STYLES, COLORS, KINDS, STYLES, WORDS


@pytest.mark.parametrize("style", ALL_STYLES)
def test_every_kind_is_drawn_in_every_style_without_margins(style):
    for index in range(len(ALL_KINDS)):
        glyph = load_glyph(style, index)
        width, height = glyph.levels[0].size
        extent = glyph.outline.max(0) - glyph.outline.min(0)
        assert max(width, height) >= 48
        assert width - 3 <= extent[0] <= width and height - 3 <= extent[1] <= height


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("color", [index for index, color in enumerate(COLORS) if color.en != "grey"])
def test_a_tint_gives_the_drawing_the_hue_of_its_color(style, color):
    wanted = colorsys.rgb_to_hsv(*(value / 255 for value in COLORS[color].rgb))[0]
    for kind in range(0, len(KINDS), 5):
        pixels = np.asarray(load_glyph(style, kind, color).levels[0].convert("RGBA"), np.float64)
        mean = pixels[pixels[..., 3] == 255][:, :3].mean(0) / 255
        hue = colorsys.rgb_to_hsv(*mean)[0]
        assert min(abs(hue - wanted), 1 - abs(hue - wanted)) < 0.03


def test_colors_are_told_apart_by_their_middle_tones():
    rgb = np.array([color.rgb for color in COLORS], np.float64)
    distance = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1) + 1000 * np.eye(len(rgb))
    assert distance.min() > 60


def test_the_level_for_a_scale_has_enough_pixels_but_not_many_more():
    glyph = load_glyph("noto", 0)
    full = glyph.levels[0].width
    assert glyph.level(2.0) is glyph.levels[0]
    for scale in (1.0, 0.8, 0.5, 0.3, 0.2):
        width = glyph.level(scale).width
        assert width >= full * scale - 1
        assert width <= full * scale / MIP_STEP + 1


def test_every_word_has_ink_up_to_its_edges():
    for word in WORDS:
        ink = np.asarray(load_word(word))
        assert ink.max() == 255
        assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()


def test_the_assets_are_small_and_carry_their_licenses():
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 1_000_000
    text = (ASSETS / "LICENSES.md").read_text(encoding="utf-8")
    for path in ASSETS.glob("*.png"):
        assert path.name in text
