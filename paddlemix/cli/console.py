"""What programs print: answers on stdout, notes and errors on stderr, whatever the two can take or have become.

What came from outside is shown escaped, what a stream cannot encode is replaced, and an output that cannot be written
is one error with a status, not a traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, TextIO

from ..errors import OutputError
from ..utils.display import escape_controls, shorten

ERROR_LIMIT = 800
"""Most characters of an error line: a foreign name or value in it may be of any length."""

_LAYOUT = "\n\t"


def prepare_streams() -> None:
    """Make the standard streams fit to be written to: closed ones lead nowhere, characters are replaced, not refused.

    stdout stays ``None`` where it was closed, so that :func:`output` can tell. What is opened later cannot take the
    place of a closed stream, and so does not get what libraries write there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def output(text: str, end: str = "\n") -> None:
    """Print ``text`` to stdout at once, control characters other than line ends and tabs escaped.

    Raises:
        OutputError: stdout is closed, or cannot be written.
        BrokenPipeError: nobody reads it any more.
    """
    write(sys.stdout, escape_controls(text, keep=_LAYOUT) + end)


def output_json(value: Any) -> None:
    """Print a value as one line of JSON. Letters are shown as they are where the stream and a terminal can take them.

    Raises what :func:`output` raises.
    """
    text = json.dumps(value, ensure_ascii=False)
    if escape_controls(text) != text or not _encodable(text, sys.stdout):
        text = json.dumps(value)
    write(sys.stdout, text + "\n")


def note(text: str) -> None:
    """A line on stderr about what is going on, kept apart from the program's output; lost where stderr is closed."""
    if sys.stderr is None:  # print() would take it to stdout
        return
    with contextlib.suppress(OSError):
        print(escape_controls(text, keep=_LAYOUT), file=sys.stderr, flush=True)


def error_line(error: BaseException) -> str:
    """``error: …`` on one line of readable length; the type of an error without a message."""
    words = shorten(" ".join(str(error).split()) or type(error).__name__, ERROR_LIMIT)
    return "error: " + escape_controls(words)


def write(stream: TextIO | None, text: str) -> None:
    """Write and flush. Raises as :func:`output`; other trouble of the stream becomes OutputError."""
    if stream is None:
        raise OutputError("stdout: is closed, so the output cannot be written")
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"stdout: the output cannot be written: {error.strerror or error}") from error


def abandon_output() -> None:
    """Print no more to stdout, also not what is waiting in its buffer: Python would try once more at its end."""
    sys.stdout = None


def _encodable(text: str, stream: TextIO | None) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
