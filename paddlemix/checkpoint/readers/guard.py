"""The one place where what goes wrong inside a reader becomes an error that names the file.

Readers check what they take out of a file. What they did not think of must not reach the user as a traceback either, so
each of them runs inside :func:`reading`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ...errors import CheckpointError, PaddleMixError
from ...utils.display import escape_controls, one_line


@contextlib.contextmanager
def reading(file: object, place: Callable[[], str] | None = None) -> Iterator[None]:
    """Raise CheckpointError for every exception inside, whatever it is, but those of this package, which say more.

    Args:
        file: how the file is called in the message.
        place: asked after an exception where in the file it was, e.g. "near byte 7 of the pickle".
    """
    try:
        yield
    except PaddleMixError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{_where(file, place)}: needs more memory than there is to be read") from error
    except Exception as error:
        kind, text = type(error).__name__, escape_controls(one_line(error))
        why = kind if text == kind else f"{kind}: {text}"
        raise CheckpointError(f"{_where(file, place)}: damaged or truncated ({why})") from error


def _where(file: object, place: Callable[[], str] | None) -> str:
    return f"{file}, {place()}" if place is not None else f"{file}"
