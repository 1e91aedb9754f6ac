"""Chat with Qwen-VL about images in the terminal.

    python chat_demo.py                              interactive, with the small bundled model
    python chat_demo.py --model_name_or_path DIR     with another model
    python chat_demo.py --script lines.txt           unattended: each line is a message or a command
    printf '/image a.jpg\\nWhat is this?\\n' | python chat_demo.py

Commands: /image PATH_OR_URL, /reset, /save FILE, /load FILE, /help, /quit; Tab completes them and paths. /save!
replaces a file, /load! also opens the files that a conversation names. Ctrl-C stops an answer, not the program.
Where an answer points at places in an image, a copy with the boxes drawn in is saved and its path printed; where it
cannot be saved, a note says so and the exit status is 1. Unattended, the first error ends the program with exit status
1. Lines that were typed are kept in ~/.paddlemix/chat_history.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout works without being installed.
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
if (_CHECKOUT / "paddlemix" / "errors.py").is_file():
    sys.path.insert(0, str(_CHECKOUT))

from paddlemix.cli import common as cli  # noqa: E402
from paddlemix.zoo import DEFAULT_MODEL, DEMO_IMAGE  # noqa: E402


def parser() -> argparse.ArgumentParser:
    result = cli.Parser(
        usage="%(prog)s [options]", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chat = result.add_argument_group("chat")
    chat.add_argument("--script", metavar="FILE", help="read the lines from a file (UTF-8) instead of the keyboard")
    chat.add_argument(
        "--output_dir", default="output", metavar="DIR", help="where drawn images go (default: %(default)s)"
    )
    cli.add_model_options(result)
    cli.add_image_options(result)
    cli.add_generation_options(result)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    from paddlemix.cli import terminal  # needs what --help does not

    generation = cli.generation_options(options)
    lines = terminal.script_lines(options.script)
    cli.model_note(options.model_name_or_path)
    chat = terminal.TerminalChat.load(
        options.model_name_or_path or DEFAULT_MODEL,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
        vision_quantization=options.vision_quantization,
        kv_cache_dtype=options.kv_cache_dtype,
        adapter=options.adapter,
        system=options.system,
        trusted_tags=options.trusted_tags,
        seed=options.seed,
        output_dir=options.output_dir,
        **cli.image_options(options),
        **generation,
    )
    if lines is not None:
        chat.run_script(lines)
    else:
        cli.output(
            f"/image PATH adds an image to the next message (one to try: {DEMO_IMAGE}); /help lists the commands."
        )
        chat.run_interactive()
    return 1 if chat.lost_images else 0


if __name__ == "__main__":
    cli.run(main)
