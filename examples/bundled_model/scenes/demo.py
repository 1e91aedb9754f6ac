"""Draws the demo image, or any other scene, to a PNG file.

python -m examples.bundled_model.scenes.demo paddlemix/zoo/demo.png
python -m examples.bundled_model.scenes.demo scene.png --seed 7 --size 168
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from paddlemix.cli import common as cli
from paddlemix.errors import ConfigurationError
from paddlemix.utils.files import replacing, told_as_checkpoint_error

from .lexicon import ALL_KINDS
from .scene import Scene, generate_scene
from .tasks import coordinates

DEMO_SEED = 1052064  # not among the seeds of training and evaluation scenes, which name no kinds
DEMO_SIZE = 672
MAX_SIZE = 8192
MAX_SEED = 1 << 63


def demo_scene(size: int = DEMO_SIZE) -> Scene:
    """The scene of the bundled demo image: a bus, a dog, a green cup and a turtle beside a sign."""
    kinds = ("bus", "dog", "cup", "turtle")
    return generate_scene(DEMO_SEED, size=size, kinds=kinds, num_objects=len(kinds), style="noto", sign=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the PNG file to write")
    parser.add_argument("--seed", type=int, help="draw this scene instead of the demo image")
    parser.add_argument("--size", type=int, default=DEMO_SIZE, help="side in pixels (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.seed is not None and not 0 <= args.seed < MAX_SEED:
        raise ConfigurationError(f"seed: got {args.seed}, expected a whole number from 0 to below 2**63")
    if not 32 <= args.size <= MAX_SIZE:
        raise ConfigurationError(f"size: got {args.size}, expected 32 to {MAX_SIZE} pixels")
    scene = demo_scene(args.size) if args.seed is None else generate_scene(args.seed, size=args.size)
    with told_as_checkpoint_error(args.output), replacing(args.output) as aside, open(aside, "xb") as file:
        scene.pil().save(file, format="PNG", optimize=True)
    for placed in scene.left_to_right():
        cli.output(f"{ALL_KINDS[placed.kind].en} {coordinates(placed.box)}")
    if scene.sign is not None:
        cli.output(f"sign: {scene.sign.word}")
    return 0


if __name__ == "__main__":
    cli.run(main)
