"""How deep containers out of a pickle are nested, known before anything walks through them.

A few hundred bytes of pickle describe tuples whose hash, comparison, printing or conversion recurses for ever, or off
the end of the stack. So depth is counted while containers are filled, and a container that was put into another one is
not filled any further: depths stay true, and nothing holds itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

#: containers inside each other; weights need five
MAX_DEPTH = 64
_CONTAINERS = frozenset({tuple, list, dict, OrderedDict, set})


class NestingError(ValueError):
    """Containers that weights never hold; the message says what about them."""


class Nesting:
    """The containers of one pickle."""

    def __init__(self) -> None:
        # Of flat containers, the most by far, nothing is kept.
        self._depths: dict[int, int] = {}
        self._closed: dict[int, Any] = {}
        self._alive: list[Any] = []  # an id belongs to one object only while that lives

    def put(self, container: Any, items: Iterable[Any]) -> None:
        """Note that ``items`` are about to be put into ``container``.

        Raises:
            NestingError: they may not be.
        """
        if id(container) in self._closed:
            raise NestingError("adds to a container that is inside another one")
        depth = 0
        for item in items:
            if type(item) in _CONTAINERS:
                if item is container:
                    raise NestingError("a container that holds itself")
                depth = max(depth, self._depths.get(id(item), 1))
                if type(item) is not tuple:
                    self._closed[id(item)] = item
        if depth >= MAX_DEPTH:
            raise NestingError(f"more than {MAX_DEPTH} containers inside each other")
        if depth and depth + 1 > self._depths.get(id(container), 1):
            self._depths[id(container)] = depth + 1
            self._alive.append(container)
