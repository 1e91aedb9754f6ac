"""Running a command-line program: its parser, one-line errors, exit statuses, quiet imports."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..errors import OutputError, PaddleMixError
from ..utils.dependencies import INSTALL, ignore_import_warnings
from .console import abandon_output, error_line, note, prepare_streams, write

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, exit status 2; ``--help`` has the rest."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line about what is wrong."""
        self.exit(2, f"error: {message} (--help lists the options)\n")


def run(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a program and exit: a deliberate error becomes one line ``error: …`` on stderr and exit status 1.

    So does an output that cannot be written; where its reader has gone (a closed pipe) there is nobody left to tell.
    """
    prepare_streams()
    _quiet_imports()
    status: int | str | None
    try:
        status = _finish(main)
    except OutputError as error:
        abandon_output()
        note(error_line(error))
        status = 1
    except PaddleMixError as error:
        note(error_line(error))
        status = 1
    except ModuleNotFoundError as error:
        note(f"error: the package {error.name!r} is not installed; what paddlemix needs: {INSTALL}")
        status = 1
    except BrokenPipeError:
        abandon_output()
        status = 1
    except KeyboardInterrupt:
        note("interrupted")
        status = INTERRUPTED
    sys.exit(status)


def _finish(main: Callable[[Sequence[str] | None], int]) -> int | str | None:
    """The exit status of a program, whose output is then out."""
    status: int | str | None
    try:
        status = main(None)
    except SystemExit as exit_:  # --help, or wrong options
        status = exit_.code
    if sys.stdout is not None:
        write(sys.stdout, "")
    return status


def _quiet_imports() -> None:
    """Keep what Paddle and PaddleNLP tell their developers off a user's terminal; warnings about the work stay."""
    ignore_import_warnings()
    os.environ.setdefault("GLOG_minloglevel", "2")  # of Paddle's C++ code errors alone
    # a filter, since PaddleNLP sets the level of its logger on import
    logging.getLogger("PaddleNLP").addFilter(lambda record: record.levelno >= logging.WARNING)
    # the first to say how log lines look decides: like the notes of the program, not like the log of a library
    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
