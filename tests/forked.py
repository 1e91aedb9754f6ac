"""Runs programs in forks of this process, which imports Paddle and PaddleNLP once for all of them."""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import NoReturn


def run_forked(command: list[str], folder: Path, stdin: str = "") -> subprocess.CompletedProcess:
    """Run a script with its arguments in a fork of this process."""
    import paddlenlp  # noqa: F401

    with contextlib.ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin.encode())
        given.seek(0)
        process = os.fork()
        if process == 0:
            _run_in_child(command, folder, (given.fileno(), out.fileno(), err.fileno()))
        _, status = os.waitpid(process, 0)
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read().decode("utf-8"))
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), *printed)


def _run_in_child(command: list[str], folder: Path, streams: tuple[int, int, int]) -> NoReturn:
    """Become the program: its streams, folder, arguments and settings of warnings and logs; never return."""
    status = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate(("r", "w", "w"))
        )
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # as in a program that Python has just started
        warnings.showwarning = _show_warning
        os.chdir(folder)
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        try:
            runpy.run_path(command[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - as Python does for an error that nobody catches
            traceback.print_exc()
            status = 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(status)


def _show_warning(message: object, category: type, filename: str, lineno: int, *_: object) -> None:
    print(f"{filename}:{lineno}: {category.__name__}: {message}", file=sys.stderr)
