"""Decoding on a device that does not wait for the host: steps are launched before the last one's tokens were seen."""

from __future__ import annotations

from typing import Any

from .protocols import DecodeRun, ModelRunner
from .sequence import Sequence


class RunAhead:
    """The rows that go on by themselves, and what they have launched.

    The host is one step behind: it launches a step, and looks at the tokens of the one before while the device
    computes. A row that has ended, or that others join, costs one step that nobody looks at: what it wrote lies behind
    the end of its row, in a block of that row.

    Args:
        runner: the model.
        block_size: of the cache; a run ends where a row needs another block.
    """

    def __init__(self, runner: ModelRunner, block_size: int) -> None:
        self._runner = runner
        self._block_size = block_size
        self._run: DecodeRun | None = None
        self._rows: list[tuple[Sequence, int]] = []
        self._left = 0

    def stop(self) -> None:
        """Forget what was launched."""
        self._run = None

    def next_tokens(self, rows: list[Sequence], cache: Any) -> list[tuple[int, float]] | None:
        """The next token of each row with its log probability, NaN where the logits were no numbers.

        Returns:
            ``None`` where the host has to choose the token of any row, or where running ahead saves nothing.
        """
        if not self._runner.runs_ahead:
            return None
        if self._run is None or not self._run.launched or self._rows != [(row, len(row.ids)) for row in rows]:
            self._run = self._started(rows, cache)
            if self._run is None:
                return None
            self._run.launch()
        if self._left > 0:
            self._run.launch()
            self._left -= 1
        tokens, log_probs = self._run.fetch()
        self._rows = [(row, len(row.ids) + 1) for row in rows]
        return list(zip(tokens.tolist(), log_probs.tolist()))

    def _started(self, rows: list[Sequence], cache: Any) -> DecodeRun | None:
        choices = [row.device_choice(self._block_size) for row in rows]
        known = [choice for choice in choices if choice is not None]
        if len(known) < len(rows):
            return None
        run = self._runner.start_run([row.row_input(1, 1) for row in rows], known, cache, self._block_size)
        # After the first step, up to the end of a row's last block, or of the window.
        self._left = min(
            min(-(row.computed + 1) % self._block_size, self._runner.window - row.computed - 1) for row in rows
        )
        return run
