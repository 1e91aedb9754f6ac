"""How far a long piece of work is, shown as a bar on a terminal and nowhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Callable, Optional

#: called with (done, in all), in bytes
Progress = Optional[Callable[[int, int], Any]]
#: work that is done sooner shows no bar
_DELAY_SECONDS = 0.5


class Counter:
    """Adds up what is done piece by piece, and tells ``progress``; what comes on top of ``total`` is not counted."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, count: int) -> None:
        """So much more is done."""
        self.done = min(self.done + count, self.total)
        if self.progress is not None:
            self.progress(self.done, self.total)

    def finish(self) -> None:
        """All is done."""
        self.add(self.total - self.done)


class ProgressBar:
    """A bar with percent, bytes and time left on stderr, if that is a terminal. It appears with the first call.

    ``with ProgressBar("converting") as advance: work(progress=advance)``
    """

    def __init__(self, description: str, delay: float = _DELAY_SECONDS) -> None:
        self.description, self.delay = description, delay
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes; more than all of them is taken for all."""
        if self._bar is None:
            from tqdm import tqdm  # here, because most programs never show one

            self._bar = tqdm(
                total=total,
                desc=self.description,
                unit="B",
                unit_scale=True,
                disable=None,
                file=sys.stderr,
                delay=self.delay,
                dynamic_ncols=True,
            )
        self._bar.total = total
        self._bar.update(min(done, total) - self._bar.n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
