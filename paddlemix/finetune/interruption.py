"""Ctrl-C and SIGTERM end a training after the current step, with a checkpoint; a second Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nstopping after this step; Ctrl-C again ends at once, without a checkpoint\n"


class StopRequest:
    """A request to stop the training.

    Attributes:
        signal: that was received; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextlib.contextmanager
def stop_on_signals(*, notice: bool) -> Iterator[StopRequest]:
    """Let signals set the request instead of ending the process; a second SIGINT raises KeyboardInterrupt.

    A launcher may send SIGTERM several times, also behind a Ctrl-C, so it never counts as the second. Signals that are
    ignored stay so. In another thread than the main one, where Python has no handlers, nothing is changed.

    Args:
        notice: whether to write a line to stderr at once.
    """
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.signal == signal.SIGINT:
            raise KeyboardInterrupt
        is_first = request.signal is None
        if is_first or number == signal.SIGINT:
            request.signal = signal.Signals(number)
        if is_first and notice:
            # Not through sys.stderr: the signal may have come in the middle of a write to it.
            with contextlib.suppress(OSError):
                os.write(2, _NOTICE)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
