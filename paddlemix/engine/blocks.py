"""The blocks of the paged cache: who holds which, and what the others still remember."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import EngineError
from .content import Content


@dataclass(frozen=True)
class BlockKey:
    """What a full block holds.

    Attributes:
        hash: of ``content`` and, through the block before it, of everything that its keys and values depend on.
        content: the block's ids and images; compared where the hash is met again.
    """

    hash: bytes
    content: bytes


@dataclass(frozen=True)
class Tail:
    """What the first positions of a block that is not full hold.

    Attributes:
        parent: the hash of the block before, or of the root.
        content: these positions.
    """

    parent: bytes
    content: Content


def root_hash(identity: bytes, position_factor: float, salt: bytes) -> bytes:
    """The parent of a row's first block: model, position encoding and salt, across which nothing is shared."""
    parts = (identity, repr(float(position_factor)).encode(), salt)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def block_key(parent: bytes, content: bytes) -> BlockKey:
    """The key of a block behind the one with the hash ``parent``."""
    return BlockKey(hashlib.sha256(parent + content).digest(), content)


class BlockPool:
    """Hands out blocks and takes them back.

    A block is free, cached or owned. Owned ones have a count of the rows that hold them. A full block that got a key
    stays behind, cached, when nobody holds it any more: a row with the same prefix takes it over, and whoever finds no
    free block gets the cached one that was left longest ago. The last block of a row, which is not full, stays behind
    too, for one row that takes it and writes on. Rows write only behind their full blocks, and only full blocks are
    shared, so no block is ever copied.

    Args:
        blocks: how many there are.
    """

    def __init__(self, blocks: int) -> None:
        self.size = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the one left longest ago first
        self._owners = [0] * blocks
        self._keys: list[BlockKey | None] = [None] * blocks
        self._by_hash: dict[bytes, int] = {}
        self._tails: dict[bytes, tuple[int, Tail]] = {}  # by the hash of their parent
        self._parents: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that ``allocate`` can give."""
        return len(self._free) + len(self._cached)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Free, cached and owned blocks."""
        free, cached = len(self._free), len(self._cached)
        return free, cached, self.size - free - cached

    def allocate(self, count: int) -> list[int]:
        """Blocks of nobody's.

        Raises:
            EngineError: there are not so many; ask ``available`` first.
        """
        if count > self.available:
            raise EngineError(f"cache: {count} blocks wanted, {self.available} available")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in taken:
            self._owners[block] = 1
        return taken

    def find(self, keys: Iterable[BlockKey]) -> list[int]:
        """The blocks that hold the first of these keys; to be acquired before anything else is allocated."""
        found = []
        for key in keys:
            block = self._by_hash.get(key.hash)
            if block is None or self._keys[block] != key:
                break
            found.append(block)
        return found

    def find_tail(self, parent: bytes) -> tuple[int, Tail] | None:
        """The block that is not full and that nobody holds behind the one with this hash."""
        found = self._tails.get(parent)
        return None if found is None or found[0] not in self._cached else found

    def take_tail(self, block: int) -> None:
        """Hold a block that ``find_tail`` found, to write on in it."""
        self._forget_tail(block)
        del self._cached[block]
        self._owners[block] = 1

    def acquire(self, blocks: Sequence[int]) -> None:
        """Hold blocks that were found."""
        for block in blocks:
            self._cached.pop(block, None)
            self._owners[block] += 1

    def unowned(self, blocks: Sequence[int]) -> int:
        """How many of these are cached: acquiring them takes them from those available."""
        return sum(block in self._cached for block in blocks)

    def release(self, blocks: Sequence[int]) -> None:
        """Give up a row's blocks. The last ones are forgotten first: they are of use to the fewest."""
        for block in reversed(blocks):
            self._owners[block] -= 1
            if self._owners[block] == 0:
                if self._keys[block] is None and block not in self._parents:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def keep_tail(self, block: int, tail: Tail) -> None:
        """Let another row find the last block of one that is about to release it; of the same parent's the newest."""
        old = self._tails.get(tail.parent)
        if old is not None:
            self._forget_tail(old[0])
            if old[0] in self._cached:
                del self._cached[old[0]]
                self._free.append(old[0])
        self._tails[tail.parent] = block, tail
        self._parents[block] = tail.parent

    def register(self, block: int, key: BlockKey) -> None:
        """Let others find a block that is full; where another one holds the same, that one stays the one."""
        if key.hash not in self._by_hash:
            self._keys[block] = key
            self._by_hash[key.hash] = block

    def grow(self, blocks: int) -> None:
        """Have so many blocks from now on; the new ones are free."""
        added = blocks - self.size
        self._free = [*range(blocks - 1, self.size - 1, -1), *self._free]
        self._owners += [0] * added
        self._keys += [None] * added
        self.size = blocks

    def forget(self) -> None:
        """Let nobody find any block that is there now."""
        self._by_hash.clear()
        self._tails.clear()
        self._parents.clear()
        self._keys = [None] * self.size
        self._free += self._cached
        self._cached.clear()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Every block is free, cached or owned, and owned by those who hold it.

        Args:
            tables: the blocks of every row there is.

        Raises:
            EngineError: one is not.
        """
        held = Counter(block for table in tables for block in table)
        states = Counter([*self._free, *self._cached, *held])
        wrong = [block for block in range(self.size) if states[block] != 1 or self._owners[block] != held[block]]
        unkeyed = [block for block in self._cached if self._keys[block] is None and block not in self._parents]
        lost = [block for hashed, block in self._by_hash.items() if getattr(self._keys[block], "hash", None) != hashed]
        lost += [block for block, _ in self._tails.values() if block not in self._cached]
        if wrong or unkeyed or lost:
            raise EngineError(f"cache: blocks {sorted({*wrong, *unkeyed, *lost})} are neither free, cached nor owned")

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        key, self._keys[block] = self._keys[block], None
        if key is not None:
            del self._by_hash[key.hash]
        self._forget_tail(block)
        return block

    def _forget_tail(self, block: int) -> None:
        parent = self._parents.pop(block, None)
        if parent is not None:
            del self._tails[parent]
