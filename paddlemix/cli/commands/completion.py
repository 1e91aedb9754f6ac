"""Print a script that lets a shell complete the subcommands of paddlemix, their options and values.

    source <(paddlemix completion bash)                                        in ~/.bashrc
    paddlemix completion zsh > ~/.zfunc/_paddlemix                             with ~/.zfunc in fpath before compinit
    paddlemix completion fish > ~/.config/fish/completions/paddlemix.fish

The script holds everything it needs: completing runs no Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import common as cli
from ..shell_completion import SHELLS, CommandLine, options_of
from . import COMMANDS


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("shell", choices=sorted(SHELLS), help="the shell to write for")
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    shell = parser(prog).parse_args(arguments).shell
    commands = [CommandLine(item.name, item.help, options_of(item.load().parser(item.name))) for item in COMMANDS]
    cli.output(SHELLS[shell](commands), end="")
    return 0
