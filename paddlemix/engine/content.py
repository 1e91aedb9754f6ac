"""What a stretch of a row holds: ids and images, compared and hashed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Content:
    """Some positions of a row.

    Attributes:
        ids: int64, −1 where an image's placeholders stand: whatever their ids, the image counts.
        images: for each image its first position here, which of its placeholders that is, how many are here, its key.
    """

    ids: np.ndarray
    images: tuple[tuple[int, int, int, bytes], ...]

    def to_bytes(self) -> bytes:
        """The same for two stretches where they hold the same."""
        images = [struct.pack("<4q", *place, len(key)) + key for *place, key in self.images]
        return b"".join([self.ids.tobytes(), *images])

    def shared(self, other: Content) -> int:
        """How many first positions hold the same."""
        shorter = min(len(self.ids), len(other.ids))
        differs = np.flatnonzero(self.ids[:shorter] != other.ids[:shorter])
        length = int(differs[0]) if len(differs) else shorter
        for mine, its in zip(self.images, other.images):
            # How far they reach tells the ids.
            if (mine[:2], mine[3]) != (its[:2], its[3]):
                return min(length, mine[0], its[0])
        return length
