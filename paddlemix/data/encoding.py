"""A record to input ids and labels; whole turns are dropped if it is too long."""

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
        labels: int64 ``[length]``, aligned with the ids; -100 is ignored by the loss.
        images: sources of the images in order of appearance.
        location: of the record.
        dropped_turns: turns (question and answer) dropped at the end.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    images: tuple[Any, ...]
    location: RecordLocation
    dropped_turns: int = 0

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)

    @property
    def targets(self) -> int:
        """Number of loss targets; nothing predicts the first id."""
        return int((self.labels[1:] != IGNORE_INDEX).sum())


def encode(
    record: Record, tokenizer: QWenVLCodec, max_length: int | None = None, truncation: str = DROP_TURNS
) -> Example:
    """Encode a record as the original's fine-tuning does.

    A record that is too long loses turns at its end: each remaining answer has all of its context, images included, and
    images keep their numbers.

    Args:
        record: the record.
        tokenizer: of the model.
        max_length: maximum number of tokens; None for no limit.
        truncation: "drop_turns" or "refuse".

    Raises:
        RecordTooLongError: the record (with "refuse"), or its first turn alone, has more than ``max_length`` tokens.
            The error's argument is the :class:`~.problems.Problem`.
    """
    rendered = render_training(tokenizer, record.messages, image_labels=not record.labeled)
    ids = np.asarray(rendered.input_ids, np.int64)
    labels = np.asarray(rendered.labels, np.int64)
    if max_length is None or len(ids) <= max_length:
        return Example(ids, labels, tuple(rendered.images), record.location)
    # Text never becomes a control token, so each of these begins a message; the first is the system message.
    starts = np.flatnonzero(ids == tokenizer.im_start_id)[1:]
    turn_ends = np.append(starts, len(ids))[2::2]
    kept = int(np.searchsorted(turn_ends, max_length, side="right"))
    if truncation == REFUSE or kept == 0:
        came = (
            f"{len(ids)} tokens" if truncation == REFUSE else f"{turn_ends[0]} tokens until the end of the first answer"
        )
        raise RecordTooLongError(Problem(record.location, "", came, f"at most max_length, {max_length}"))
    end = int(turn_ends[kept - 1])
    n_images = int((ids[:end] == tokenizer.img_start_id).sum())
    dropped = len(turn_ends) - kept
    return Example(ids[:end], labels[:end], tuple(rendered.images[:n_images]), record.location, dropped)
