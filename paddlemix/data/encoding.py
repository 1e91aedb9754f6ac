"""A record to ids and labels, whole turns left out where it is too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RecordTooLongError
from ..models.qwen_vl.chat_template import render_training
from ..models.qwen_vl.codec import QWenVLCodec
from ..models.qwen_vl.vocabulary import IGNORE_INDEX
from .problems import Problem, RecordLocation
from .records import Record

DROP_TURNS, REFUSE = "drop_turns", "refuse"


@dataclass(frozen=True)
class Example:
    """A record as the model sees it.

    Attributes:
        input_ids: int64 ``[length]``.
        labels: int64 ``[length]``, aligned with the ids; -100 is not learned.
        images: the images in order of their slots, not opened.
        location: of the record.
        dropped_turns: questions that were left out with their answers, at the end, for want of room.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    images: tuple[Any, ...]
    location: RecordLocation
    dropped_turns: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def targets(self) -> int:
        """Labels that are learned; the first id is predicted by nothing."""
        return int((self.labels[1:] != IGNORE_INDEX).sum())


def encode(
    record: Record, tokenizer: QWenVLCodec, max_length: int | None = None, truncation: str = DROP_TURNS
) -> Example:
    """Ids and labels of a record, exactly as the original's fine-tuning has them, but for the image slots.

    A longer record loses turns at its end: each answer that is left has all that came before it, images included, and
    images keep their numbers. With ``truncation="refuse"`` nothing is left out.

    Raises:
        RecordTooLongError: the record, or its first turn alone, has more than ``max_length`` ids. Its argument is the
            :class:`~.problems.Problem`.
    """
    rendered = render_training(tokenizer, record.messages, image_labels=not record.labeled)
    ids = np.asarray(rendered.input_ids, np.int64)
    labels = np.asarray(rendered.labels, np.int64)
    if max_length is None or len(ids) <= max_length:
        return Example(ids, labels, tuple(rendered.images), record.location)
    # Text never becomes a control token, so each of these begins a message, the first one the system's.
    starts = np.flatnonzero(ids == tokenizer.im_start_id)[1:]
    turn_ends = np.append(starts, len(ids))[2::2]
    kept = int(np.searchsorted(turn_ends, max_length, side="right"))
    if truncation == REFUSE or kept == 0:
        came = f"{len(ids)} ids" if truncation == REFUSE else f"{turn_ends[0]} ids until the end of the first answer"
        raise RecordTooLongError(Problem(record.location, "", came, f"at most max_length, {max_length}"))
    end = int(turn_ends[kept - 1])
    n_images = int((ids[:end] == tokenizer.img_start_id).sum())
    dropped = len(turn_ends) - kept
    return Example(ids[:end], labels[:end], tuple(rendered.images[:n_images]), record.location, dropped)
