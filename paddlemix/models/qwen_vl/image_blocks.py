"""Picture blocks in a row of ids: ``<img>``, path bytes, pads, ``</img>``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Union


class ImageBlock(NamedTuple):
    """A complete block. ``path`` is empty when the slots hold pads only."""

    ids: tuple[int, ...]
    path: str


Piece = Union[int, ImageBlock]


class ImageBlockReader:
    """Finds picture blocks in ids that arrive one at a time.

    A block is ``<img>``, at most ``max_slots`` ids of which the first are bytes (0..255) that make up UTF-8 and the
    others ``<imgpad>``, and ``</img>``. Ids that turn out to be no block are handed out one by one, unchanged.
    """

    def __init__(self, start_id: int, end_id: int, pad_id: int, max_slots: int) -> None:
        self._start_id, self._end_id, self._pad_id = start_id, end_id, pad_id
        self._max_slots = max_slots
        self._held: list[int] = []

    def push(self, token_id: int) -> list[Piece]:
        """What is certain now that ``token_id`` has come; nothing while a block is open."""
        if self._held and self._continues(token_id):
            self._held.append(token_id)
            return [] if token_id != self._end_id else self._closed()
        released = self.finish()
        if token_id == self._start_id:
            self._held = [token_id]
        else:
            released.append(token_id)
        return released

    def finish(self) -> list[Piece]:
        """The ids held back, which are no block since no more will come."""
        released: list[Piece] = list(self._held)
        self._held = []
        return released

    def _continues(self, token_id: int) -> bool:
        if token_id == self._end_id:
            return True
        if len(self._held) > self._max_slots:
            return False
        return token_id == self._pad_id or (0 <= token_id < 256 and self._held[-1] != self._pad_id)

    def _closed(self) -> list[Piece]:
        content = [i for i in self._held[1:-1] if i != self._pad_id]
        try:
            path = bytes(content).decode("utf-8")
        except UnicodeDecodeError:
            return self.finish()
        block = ImageBlock(tuple(self._held), path)
        self._held = []
        return [block]


def split_blocks(ids: Iterable[int], reader: ImageBlockReader) -> list[Piece]:
    """All ids, with each picture block as one :class:`ImageBlock`."""
    pieces: list[Piece] = []
    for token_id in ids:
        pieces += reader.push(token_id)
    return pieces + reader.finish()


def cut_outside_blocks(pieces: Iterable[Piece], length: int) -> int:
    """The largest number of leading ids that is at most ``length`` and leaves no picture block in two."""
    kept = 0
    for piece in pieces:
        size = len(piece.ids) if isinstance(piece, ImageBlock) else 1
        if kept + size > length:
            break
        kept += size
    return kept
