"""Training progress: one line that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TextIO

BAR_WIDTH = 24  # columns, where there is room
MIN_BAR_WIDTH = 8
MIN_REFRESH_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """What the progress line shows; None is not known yet.

    Attributes:
        step: optimizer steps done.
        total: optimizer steps of the training.
        loss: of the last log.
        learning_rate: of the last log.
        tokens_per_second: since the log before.
        seconds_left: estimated.
    """

    step: int
    total: int
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None

    def measured(self, logs: Mapping[str, float]) -> Progress:
        """The progress with the measurements of a log."""
        return replace(
            self,
            loss=logs.get("loss"),
            learning_rate=logs.get("learning_rate"),
            tokens_per_second=logs.get("tokens_per_second"),
        )


def describe(progress: Progress, status: str = "") -> str:
    """The text of the line, such as ``35/200  loss 1.2345  lr 9.5e-05  1,234 tokens/s  3:12 left``."""
    parts = [f"{progress.step:>{len(str(progress.total))}}/{progress.total}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.learning_rate is not None:
        parts.append(f"lr {progress.learning_rate:.2e}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    elif progress.step:
        parts.append("estimating the time left")
    return "  ".join([*parts, status] if status else parts)


def clock(seconds: float) -> str:
    """A duration as ``m:ss``, ``h:mm:ss`` or ``N d h:mm:ss``."""
    minutes, second = divmod(max(0, math.ceil(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if not hours:
        return f"{minute}:{second:02}"
    return f"{days} d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"


def bar(step: int, total: int, width: int) -> str:
    """A progress bar of ``width`` columns."""
    full = width * min(step, total) // max(total, 1)
    return "█" * full + "░" * (width - full)


def fit(text: str, columns: int, step: int, total: int) -> str:
    """A bar and the text in at most ``columns``; without the bar, and cut, where there is no room."""
    room = columns - _columns(text) - 2
    if room >= MIN_BAR_WIDTH:
        return f"{bar(step, total, min(room, BAR_WIDTH))}  {text}"
    while _columns(text) > columns:
        text = text[:-1]
    return text


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal: Chinese letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


class ProgressLine:
    """Writes progress to a stream: over the same line if it is a terminal that can show a bar.

    Args:
        stream: where to write.

    Attributes:
        is_terminal: whether the line is redrawn.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty() and _can_write(stream, bar(1, 2, 2))
        self._drawn = 0  # columns of the line on the terminal

    def draw(self, text: str, step: int, total: int) -> None:
        """Redraw the line; nothing if this is no terminal."""
        if self.is_terminal:
            # The last column is left free: a cursor behind it would be on the next line.
            line = fit(text, shutil.get_terminal_size().columns - 1, step, total)
            self._write("\r" + line + " " * max(0, self._drawn - _columns(line)))
            self._drawn = _columns(line)

    def print(self, text: str) -> None:
        """Write a permanent line; the progress line is gone until it is redrawn."""
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")
            self._drawn = 0
        self._write(text + "\n")

    def close(self) -> None:
        """Leave the progress line where it is."""
        if self._drawn:
            self._write("\n")
            self._drawn = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
