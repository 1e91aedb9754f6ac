"""What must hold for every input, however bad: a result or a documented error of one short line; no hang, no memory."""

from __future__ import annotations

import contextlib
import faulthandler
import re
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from paddlemix.errors import PaddleMixError
from tests.fuzz.counts import note

#: of processor time: some hundred times what the slowest case takes, and nothing against for ever
CPU_SECONDS = 60
#: where not even a signal is handled any more
WALL_SECONDS = 900
MESSAGE_LIMIT = 6000
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Endless(BaseException):
    """A case that has run for longer than any may. Not an Exception: readers must not take it for one of theirs."""


@contextlib.contextmanager
def no_hang(case: str) -> Iterator[None]:
    """End a case that does not end by itself."""

    def stop(*_: Any) -> None:
        raise Endless(f"{case}: more than {CPU_SECONDS} seconds of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGVTALRM, before)


def attempt(case: str, function: Callable[[], Any]) -> str:
    """Run one case: "ok", or the type of the documented error that it ended with. Fails the test for anything else."""
    with no_hang(case):
        try:
            function()
        except PaddleMixError as error:
            message = str(error)
            if not message or len(message) > MESSAGE_LIMIT or _CONTROLS.search(message):
                note("undocumented")
                raise AssertionError(
                    f"{case}: no readable line: {message[:300]!r}, {len(message)} characters"
                ) from error
            note("refused")
            return type(error).__name__
        except Endless:
            note("hang")
            raise
        except Exception as error:
            note("undocumented")
            raise AssertionError(f"{case}: {type(error).__name__}: {error}"[:2000]) from error
    note("ok")
    return "ok"


def peak_memory(function: Callable[[], Any]) -> int:
    """The most bytes that Python and NumPy held at a time while ``function`` ran."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
