"""Who gets blocks, and whose turn it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .blocks import BlockPool
from .request import FinishReason
from .sequence import Sequence


class Scheduler:
    """Requests in the order of their arrival, at most ``max_rows`` of them with blocks.

    In each step every row that runs is decoded; then one that does not run yet gets a part of its prompt computed, so
    that a new prompt never stops the answers of others for longer than such a part takes. When no block is left for a
    row that runs, cached blocks go first, then the youngest sequence gives its own up and is computed again later.

    Args:
        pool: the blocks.
        block_size: positions of each.
        max_rows: most rows of a pass.
    """

    def __init__(self, pool: BlockPool, block_size: int, max_rows: int) -> None:
        self._pool = pool
        self._block_size = block_size
        self._max_rows = max_rows
        self.waiting: deque[Sequence] = deque()
        self.prompt: Sequence | None = None
        """The one whose prompt is being computed."""
        self.running: list[Sequence] = []
        """The oldest first."""
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    def __iter__(self) -> Iterator[Sequence]:
        """All that are not finished."""
        yield from self.running
        if self.prompt is not None:
            yield self.prompt
        yield from self.waiting

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return bool(self.running or self.waiting or self.prompt)

    def blocks_for(self, length: int) -> int:
        """Blocks that so many positions take."""
        return -(-length // self._block_size)

    def add(self, sequence: Sequence) -> None:
        """Queue a new one."""
        self.waiting.append(sequence)

    def next_prompt(self) -> Sequence | None:
        """The sequence whose prompt is to be computed further; the oldest that waits, if there is room for it."""
        if self.prompt is None and self.waiting and len(self.running) < self._max_rows and self._admit(self.waiting[0]):
            self.prompt = self.waiting.popleft()
        return self.prompt

    def rows_to_decode(self) -> list[Sequence]:
        """All that run, the oldest first, each with a block for its next position."""
        for sequence in self.running.copy():
            while self.blocks_for(len(sequence.ids)) > len(sequence.blocks) and sequence in self.running:
                if self._pool.available:
                    sequence.blocks += self._pool.allocate(1)
                else:
                    self._preempt()
        return self.running.copy()

    def prompt_computed(self) -> None:
        """The sequence whose prompt was being computed runs from now on."""
        if self.prompt is not None:
            self.running.append(self.prompt)
            self.running.sort(key=lambda sequence: sequence.arrival)
            self.prompt = None

    def computed(self, sequence: Sequence, length: int) -> None:
        """Note that the cache holds so many of a sequence's ids; blocks that are full can be found by others."""
        before = sequence.computed // self._block_size
        sequence.computed = length
        if length // self._block_size == before:
            return
        for index, key in enumerate(sequence.keys(self._block_size, length)[before:], before):
            self._pool.register(sequence.blocks[index], key)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and take its blocks back."""
        if sequence is self.prompt:
            self.prompt = None
        elif sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._take_blocks(sequence)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a sequence blocks for all of its ids, those with its prefix first; whether there are enough."""
        # The last id is always computed: its logits are what the sequence is after.
        known = len(sequence.ids) - 1
        found = self._pool.find(sequence.keys(self._block_size, known))
        missing = self.blocks_for(len(sequence.ids)) - len(found)
        reserve = sum(self.blocks_for(row.longest) > len(row.blocks) for row in self.running)
        if missing + self._pool.unowned(found) + reserve > self._pool.available:
            return False
        self._pool.acquire(found)
        sequence.computed = len(found) * self._block_size
        tail = self._take_tail(sequence, known)
        sequence.blocks = found + tail + self._pool.allocate(missing - len(tail))
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            self.prefix_queries += len(sequence.ids)
            self.prefix_hits += sequence.computed
        return True

    def _take_tail(self, sequence: Sequence, known: int) -> list[int]:
        """Go on in the block that another row was writing, if it begins as the sequence's next one does."""
        start = sequence.computed
        mine = sequence.tail(self._block_size, start, min(start + self._block_size, known))
        found = self._pool.find_tail(mine.parent)
        shared = 0 if found is None else mine.content.shared(found[1].content)
        if found is None or not shared:
            return []
        self._pool.take_tail(found[0])
        sequence.computed += shared
        return [found[0]]

    def _preempt(self) -> None:
        """Let the youngest sequence that holds blocks wait again, in front of those that never had any."""
        holders = [*self.running, *([] if self.prompt is None else [self.prompt])]
        youngest = max(holders, key=lambda sequence: sequence.arrival)
        if youngest is self.prompt:
            self.prompt = None
        else:
            self.running.remove(youngest)
        self._take_blocks(youngest)
        self.waiting.appendleft(youngest)
        self.preemptions += 1

    def _take_blocks(self, sequence: Sequence) -> None:
        start = sequence.computed // self._block_size * self._block_size
        if start < sequence.computed and sequence.finish_reason is not FinishReason.ERROR:
            block = sequence.blocks[start // self._block_size]
            self._pool.keep_tail(block, sequence.tail(self._block_size, start, sequence.computed))
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.encoding = [], 0, None
