"""Draws the atlases in ``assets/`` from the emoji sets and fonts; needed only when the lexicon or a style changes.

    npm pack emoji-datasource-twitter@16.0.0 @iconify-json/fluent-emoji-flat@1.2.6 && mkdir twemoji fluent
    tar xzf emoji-datasource-twitter-16.0.0.tgz -C twemoji && tar xzf iconify-json-fluent-emoji-flat-1.2.6.tgz -C fluent
    pip install resvg-py==0.5.0
    python -m examples.bundled_model.scenes.build_assets \\
        --twemoji-folder twemoji/package/img/twitter/64 --fluent-folder fluent/package

Noto Color Emoji comes from a font, Twemoji as images, Fluent Emoji as SVG (which only this program needs resvg for).
The word atlas is drawn with DejaVu Sans Bold and Noto Sans CJK. Everything else in the project reads the atlases alone.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from PIL import Image, ImageDraw, ImageFont

from paddlemix.cli import common as cli
from paddlemix.errors import ConfigurationError
from paddlemix.utils.display import one_line
from paddlemix.utils.files import read_json

from .glyphs import ASSETS
from .lexicon import ALL_KINDS, WORDS

NOTO_STRIKE = 109  # the only size that the bitmap font has
NOTO_CELL = 128
TWEMOJI_CELL = 64
FLUENT_CELL = 96
WORD_HEIGHT = 44
COLUMNS = 8
MAX_SET_BYTES = 256 << 20  # of the description of an emoji set


def characters(emoji: str) -> str:
    """``2708-fe0f`` -> the characters themselves."""
    return "".join(chr(int(code, 16)) for code in emoji.split("-"))


def noto_drawer(font_path: str) -> Callable[[str], Image.Image]:
    font = ImageFont.truetype(font_path, NOTO_STRIKE)

    def draw(emoji: str) -> Image.Image:
        canvas = Image.new("RGBA", (176, 176), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((20, 20), characters(emoji), font=font, embedded_color=True)
        return canvas

    return draw


def twemoji_drawer(folder: str) -> Callable[[str], Image.Image]:
    return lambda emoji: Image.open(Path(folder) / f"{emoji}.png").convert("RGBA")


def fluent_drawer(folder: str) -> Callable[[str], Image.Image]:
    from resvg_py import svg_to_bytes  # needed for this style only

    names = read_json(Path(folder) / "chars.json", limit=MAX_SET_BYTES)
    icons = read_json(Path(folder) / "icons.json", limit=MAX_SET_BYTES)

    def draw(emoji: str) -> Image.Image:
        body = icons["icons"][names[emoji.removesuffix("-fe0f")]]["body"]
        view = f"0 0 {icons['width']} {icons['height']}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{body}</svg>'
        return Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg, width=FLUENT_CELL)))).convert("RGBA")

    return draw


def build_atlas(style: str, draw: Callable[[str], Image.Image], cell: int) -> None:
    """Writes ``STYLE.png`` and ``STYLE.json`` (kind -> [x, y, width, height] of its drawing, without margins)."""
    rows = -(-len(ALL_KINDS) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * cell, rows * cell), (0, 0, 0, 0))
    places: dict[str, list[int]] = {}
    for index, kind in enumerate(ALL_KINDS):
        glyph = draw(kind.emoji)
        # What is more transparent than opaque (steam, shadows) has no say in the extent of a drawing.
        extent = glyph.getchannel("A").point(lambda a: 255 if a >= 128 else 0).getbbox()
        if extent is None:
            raise SystemExit(f"style {style!r} has no drawing of {kind.en!r} ({kind.emoji})")
        left, top, right, bottom = extent
        soft_edge = (max(0, left - 1), max(0, top - 1), min(glyph.width, right + 1), min(glyph.height, bottom + 1))
        glyph = glyph.crop(soft_edge)
        if max(glyph.size) > cell:
            scale = cell / max(glyph.size)
            glyph = glyph.resize((round(glyph.width * scale), round(glyph.height * scale)), Image.LANCZOS)
        x, y = index % COLUMNS * cell, index // COLUMNS * cell
        atlas.paste(glyph, (x, y))
        places[kind.en] = [x, y, glyph.width, glyph.height]
    atlas.save(ASSETS / f"{style}.png", optimize=True)
    (ASSETS / f"{style}.json").write_text(json.dumps(places) + "\n", encoding="utf-8")


def build_words(latin_font: str, cjk_font: str) -> None:
    """Writes ``words.png`` (8-bit ink masks, one word a row) and ``words.json`` (word -> [x, y, width, height])."""
    latin, cjk = ImageFont.truetype(latin_font, WORD_HEIGHT), ImageFont.truetype(cjk_font, WORD_HEIGHT, index=2)
    masks = {}
    for word in WORDS:
        canvas = Image.new("L", (WORD_HEIGHT * (len(word) + 2), WORD_HEIGHT * 2), 0)
        ImageDraw.Draw(canvas).text((WORD_HEIGHT // 2, 0), word, fill=255, font=latin if word.isascii() else cjk)
        masks[word] = canvas.crop(canvas.getbbox())
    atlas = Image.new("L", (max(mask.width for mask in masks.values()), sum(mask.height for mask in masks.values())), 0)
    places, top = {}, 0
    for word, mask in masks.items():
        atlas.paste(mask, (0, top))
        places[word] = [0, top, mask.width, mask.height]
        top += mask.height
    atlas.save(ASSETS / "words.png", optimize=True)
    (ASSETS / "words.json").write_text(json.dumps(places, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noto-font", default="/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    parser.add_argument("--twemoji-folder", required=True, help="folder of 64-px PNGs named by their code points")
    parser.add_argument("--fluent-folder", required=True, help="folder of chars.json and icons.json")
    parser.add_argument("--latin-font", default="/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf")
    parser.add_argument("--cjk-font", default="/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc")
    args = parser.parse_args(arguments)
    for option in ("noto_font", "twemoji_folder", "fluent_folder", "latin_font", "cjk_font"):
        if not Path(getattr(args, option)).exists():
            raise ConfigurationError(f"{option}: {getattr(args, option)!r} does not exist; see --help for what it is")
    try:
        build_atlas("noto", noto_drawer(args.noto_font), NOTO_CELL)
        build_atlas("twemoji", twemoji_drawer(args.twemoji_folder), TWEMOJI_CELL)
        build_atlas("fluent", fluent_drawer(args.fluent_folder), FLUENT_CELL)
        build_words(args.latin_font, args.cjk_font)
    except OSError as error:
        raise ConfigurationError(f"the atlases cannot be drawn: {one_line(error)}") from error
    return 0


if __name__ == "__main__":
    cli.run(main)
