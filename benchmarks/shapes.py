"""The published model's shapes, and how much work a layer of each part is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PATCHES = 1024  # of an image of 448 × 448 pixels
QUERIES = 256
PROMPT = 288  # one image and a question
CACHED = 288


@dataclass(frozen=True)
class Shapes:
    """Widths of the decoder and of the ViT; ``ffn`` is the width between the feed-forward layer's products."""

    hidden: int = 4096
    heads: int = 32
    ffn: int = 11008
    vit_width: int = 1664
    vit_heads: int = 16
    vit_mlp: int = 8192

    def shrunk(self, divisor: int) -> Shapes:
        """Fewer heads of the same width, and narrower layers with them."""
        return Shapes(*(value // divisor for value in vars(self).values()))


class Part(NamedTuple):
    """``weights`` elements and floating-point ``operations`` of one layer that is given ``tokens`` positions."""

    name: str
    title: str
    tokens: int
    weights: int
    operations: int


def parts(shapes: Shapes) -> list[Part]:
    """The parts in the order in which they are printed."""
    block = 4 * shapes.hidden**2 + 3 * shapes.hidden * shapes.ffn
    vit_block = 4 * shapes.vit_width**2 + 2 * shapes.vit_width * shapes.vit_mlp
    resampler = shapes.vit_width * shapes.hidden + 4 * shapes.hidden**2
    # A product with each weight for each position; two for each pair of positions and channel in the attention. The
    # resampler projects its queries (in and out) for 256 positions, keys and values for every patch.
    resampling = PATCHES * (shapes.vit_width * shapes.hidden + 2 * shapes.hidden**2) + QUERIES * 2 * shapes.hidden**2
    return [
        Part(
            "vit",
            f"ViT, {PATCHES} patches",
            PATCHES,
            vit_block,
            2 * PATCHES * vit_block + 4 * PATCHES**2 * shapes.vit_width,
        ),
        Part(
            "resampler",
            f"resampler, {PATCHES} patches",
            PATCHES,
            resampler,
            2 * resampling + 4 * PATCHES * QUERIES * shapes.hidden,
        ),
        Part(
            "prefill",
            f"prefill of {PROMPT}",
            PROMPT,
            block,
            2 * PROMPT * block + 4 * PROMPT**2 * shapes.hidden,
        ),
        Part("decode", f"decode after {CACHED}", 1, block, 2 * block + 4 * CACHED * shapes.hidden),
    ]
