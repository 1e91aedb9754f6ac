"""What a session's KV cache holds, and how much of it a new prompt may reuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..models.qwen_vl.kv_cache import KVCache


@dataclass
class CachedPrefix:
    """A cache of one row and what was fed to it.

    Attributes:
        prompt: ids of the prompt.
        answer: ids generated after it; the cache may lack the last one, and the list may still grow.
        images: keys of the prompt's images, in order.
    """

    cache: KVCache
    prompt: list[int]
    images: list[str]
    answer: list[int] = field(default_factory=list)

    def reusable(self, prompt: Sequence[int], images: Sequence[str], image_start_id: int, slots: int) -> int:
        """How many first positions of the cache are those of another prompt.

        Its last id is never among them, since the model must be asked about it. An image belongs to them whole or not
        at all, and only if it is the same image. Whether the position encoding is the same, the caller must check.
        """
        held = np.array([*self.prompt, *self.answer][: self.cache.length])
        new = np.array(prompt[:-1])
        shorter = min(len(held), len(new))
        differs = np.flatnonzero(held[:shorter] != new[:shorter])
        length = int(differs[0]) if len(differs) else shorter
        starts = np.flatnonzero(new[:length] == image_start_id)
        for index, start in enumerate(starts):
            # A model may write "<img>" into its answer; such a one has no image.
            known = index < min(len(self.images), len(images))
            if not known or self.images[index] != images[index] or start + slots + 2 > length:
                return int(start)
        return length
