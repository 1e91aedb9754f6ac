"""Which turns of a conversation a model is shown with the next question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_WINDOW = 6144


class ChatWindow(NamedTuple):
    """How much of a conversation a model is shown.

    Attributes:
        size: the system message and the turns before the question have fewer ids than this. As in the original, the
            question is not counted.
        images: most images with which earlier turns are shown; None for any number. The question may have more.
    """

    size: int = DEFAULT_WINDOW
    images: int | None = None


def kept_turns(
    window: ChatWindow,
    system: int,
    sizes: Sequence[int],
    images: Sequence[int],
    question_images: int,
    keep_last_image: bool,
) -> list[int]:
    """Which turns before a question stay in its prompt, in order: the newest ones that fit.

    Args:
        window: the limits.
        system: ids of the system message.
        sizes: ids of each turn, the oldest first.
        images: images of each turn.
        question_images: images of the question itself.
        keep_last_image: for a question without an image, the newest turn with one stays in any case, for the question
            is most likely about it.
    """
    count = len(sizes)
    shown = [index for index in range(count) if images[index]]
    subject = shown[-1] if keep_last_image and shown and not question_images else None
    first = _first_within(window.images, images, question_images)
    size = system + (0 if subject is None else sizes[subject])
    kept = set() if subject is None else {subject}
    for index in reversed(range(first, count)):
        if index == subject:
            continue
        size += sizes[index]
        if size >= window.size:
            break
        kept.add(index)
    return sorted(kept)


def _first_within(limit: int | None, images: Sequence[int], question_images: int) -> int:
    """The oldest turn that may stay. Turns without an image go with the image that they are about, the one before."""
    if limit is None:
        return 0
    first, total = len(images), question_images
    for index in reversed(range(len(images))):
        if images[index]:
            total += images[index]
            if total > limit:
                return first
            first = index
    return 0
