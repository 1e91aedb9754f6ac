r"""Chat with Qwen-VL about images in the terminal.

    %(prog)s                              interactive, with the small bundled model
    %(prog)s --model_name_or_path DIR     with another model
    %(prog)s --script lines.txt           unattended: each line is a message or a command
    printf '/image a.jpg\nWhat is this?\n' | %(prog)s

Commands: /image PATH_OR_URL, /reset, /save FILE, /load FILE, /help, /quit; Tab completes them and paths. /save!
replaces a file, /load! also opens the files that a conversation names. Ctrl-C stops an answer, not the program.
Where an answer points at places in an image, a copy with the boxes drawn in is saved and its path printed; where it
cannot be saved, a note says so and the exit status is 1. Unattended, the first error ends the program with exit status
1. Lines that were typed are kept in ~/.paddlemix/chat_history.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...options import CONVERSATION, GENERATION, IMAGES, MODEL
from ...zoo import DEMO_IMAGE
from .. import common as cli


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(
        prog=prog, usage="%(prog)s [options]", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chat = result.add_argument_group("chat")
    chat.add_argument("--script", metavar="FILE", help="read the lines from a file (UTF-8) instead of the keyboard")
    chat.add_argument(
        "--output_dir", default="output", metavar="DIR", help="where drawn images go (default: %(default)s)"
    )
    cli.add_options(result, MODEL, CONVERSATION, IMAGES, GENERATION)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    from .. import terminal  # needs what --help does not

    cli.generation_options(options)  # a wrong one is told before the script is read
    given = cli.given_options(options, MODEL, CONVERSATION, IMAGES, GENERATION)
    lines = terminal.script_lines(options.script)
    cli.model_note(options.model)
    chat = terminal.TerminalChat.load(output_dir=options.output_dir, **given)
    if lines is not None:
        chat.run_script(lines)
    else:
        cli.output(
            f"/image PATH adds an image to the next message (one to try: {DEMO_IMAGE}); /help lists the commands."
        )
        chat.run_interactive()
    return 1 if chat.lost_images else 0
