"""The paged cache: its blocks, and the model's memory for them, which grows."""

from __future__ import annotations

from .blocks import BlockPool
from .config import EngineConfig
from .protocols import ModelRunner


class PagedCache:
    """Blocks and the memory that they stand for.

    Args:
        runner: the model.
        config: sizes.

    Attributes:
        most_blocks: that it may grow to.
        wanted_blocks: that the requests there are may need.
        pool: who holds which block.
        memory: what ``runner.new_cache`` made, or ``runner.grown_cache``.
    """

    def __init__(self, runner: ModelRunner, config: EngineConfig) -> None:
        self._runner = runner
        self._block_size = config.block_size
        self.most_blocks = max(1, config.cache_bytes // runner.block_bytes(config.block_size))
        self.wanted_blocks = 0
        blocks = self.most_blocks if config.preallocate else 1
        self.pool = BlockPool(blocks)
        self.memory = runner.new_cache(blocks, config.block_size)

    def grow(self) -> bool:
        """Make the cache large enough for what is wanted, by half at least, for growing copies it; whether it grew."""
        size = self.pool.size
        if not self.wanted_blocks > size < self.most_blocks:
            return False
        unused = self.pool.counts[0] == size
        blocks = min(self.most_blocks, max(self.wanted_blocks, 0 if unused else size + size // 2))
        if unused:
            self.memory = None  # freed before the new one is made
            self.memory = self._runner.new_cache(blocks, self._block_size)
        else:
            self.memory = self._runner.grown_cache(self.memory, blocks)
        self.pool.grow(blocks)
        return True
