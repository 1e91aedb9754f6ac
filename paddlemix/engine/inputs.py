"""Checks of what ``generate`` is given: prompts as arrays of token ids, and their padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import numpy as np

from ..errors import PromptError
from .options import GenerationOptions

if TYPE_CHECKING:
    import paddle

IdsLike = Union["paddle.Tensor", np.ndarray, Sequence[Sequence[int]]]


def id_array(input_ids: IdsLike, vocab_size: int) -> np.ndarray:
    """The prompts as int64 ``[batch, length]``.

    Args:
        input_ids: integers of that shape.
        vocab_size: that of the model; ids are below it.

    Raises:
        PromptError: not integers of that shape, empty, or beyond the vocabulary.
    """
    try:
        ids = np.asarray(input_ids)
    except ValueError:
        raise PromptError("input_ids: rows of unequal length; pad them on the left and pass attention_mask") from None
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise PromptError(f"input_ids: expected integers [batch, length], got {ids.dtype} {list(ids.shape)}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise PromptError(
            f"input_ids: expected ids from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}; the "
            "tokenizer and the model do not belong together"
        )
    return ids.astype(np.int64)


def left_padding(ids: np.ndarray, attention_mask: IdsLike | None, options: GenerationOptions) -> np.ndarray | None:
    """The mask of left padding.

    Without a mask, rows that begin with the padding id count as padded, unless that id is also a stop token: then
    only the caller can know.

    Args:
        ids: int64 ``[batch, length]``.
        attention_mask: zeros for padding, ``[batch, length]``; None to derive it from the ids.
        options: the padding and stop ids.

    Returns:
        Bool ``[batch, length]``, false for padding, or ``None`` where there is none.

    Raises:
        PromptError: the mask has another shape or other padding than on the left, or is needed.
    """
    if attention_mask is None:
        pad = options.pad_token_id
        if len(ids) == 1 or pad is None or not (ids[:, 0] == pad).any():
            return None
        if pad in options.eos_token_id:
            raise PromptError(
                f"attention_mask: needed, because {pad} at the start of a row may be padding or a stop token; the "
                "processor and tokenizer(..., padding=True) return it"
            )
        mask = np.logical_or.accumulate(ids != pad, axis=1)
    else:
        mask = np.asarray(attention_mask).astype(bool)
        if mask.shape != ids.shape:
            raise PromptError(f"attention_mask: expected the shape {list(ids.shape)}, got {list(mask.shape)}")
        if (mask[:, :-1] & ~mask[:, 1:]).any():
            raise PromptError("attention_mask: zeros behind ones; pad prompts on the left, as with padding_side='left'")
    if not mask[:, -1].all():
        raise PromptError("attention_mask: a row holds nothing but padding; every prompt needs at least one token")
    return None if mask.all() else mask
