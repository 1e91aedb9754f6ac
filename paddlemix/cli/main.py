"""The command ``paddlemix``: finds the subcommand and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from .commands import COMMANDS
from .program import Parser, run


def parser() -> argparse.ArgumentParser:
    """The command line up to the name of the subcommand; importing no subcommand."""
    result = Parser(
        prog="paddlemix",
        usage="paddlemix COMMAND [options]",
        description=_description(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("command", choices=[command.name for command in COMMANDS], help=argparse.SUPPRESS)
    result.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    result.add_argument("--version", action="version", version=f"paddlemix {__version__}")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status; without one, print the help."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        parser().print_help(sys.stderr)
        return 2
    given = parser().parse_args(words)
    command = next(command for command in COMMANDS if command.name == given.command)
    status: int = command.load().main(given.arguments, f"paddlemix {command.name}")
    return status


def console_script() -> NoReturn:
    """What ``pip install`` makes the command ``paddlemix`` of."""
    run(main)


def _description() -> str:
    lines = ["Qwen-VL for PaddlePaddle. `paddlemix COMMAND --help` lists the options of a command."]
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines += ["", f"{group}:"]
        lines += [f"  {command.name:<14}{command.help}" for command in COMMANDS if command.group == group]
    return "\n".join(lines)
