"""Checking and completing what ``generate`` is given: ids, padding, and images that are named in the ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import numpy as np
import paddle

from ...engine.options import GenerationOptions
from ...errors import PromptError
from .configuration import QWenVLConfig, QWenVLVisionConfig

if TYPE_CHECKING:
    from ...media import ImagePolicy
    from .processing import QwenVLImageProcessor

IdsLike = Union[paddle.Tensor, np.ndarray, Sequence[Sequence[int]]]


def id_array(input_ids: IdsLike, config: QWenVLConfig) -> np.ndarray:
    """The prompts as int64 ``[batch, length]``.

    Raises:
        PromptError: not integers of that shape, empty, or beyond the vocabulary.
    """
    try:
        ids = np.asarray(input_ids)
    except ValueError:
        raise PromptError("input_ids: rows of unequal length; pad them on the left and pass attention_mask") from None
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise PromptError(f"input_ids: expected integers [batch, length], got {ids.dtype} {list(ids.shape)}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise PromptError(
            f"input_ids: expected ids from 0 to {config.vocab_size - 1}, got {ids.min()} to {ids.max()}; the "
            "tokenizer and the model do not belong together"
        )
    return ids.astype(np.int64)


def left_padding(ids: np.ndarray, attention_mask: IdsLike | None, options: GenerationOptions) -> np.ndarray | None:
    """Bool ``[batch, length]``, false for padding, or ``None`` where there is none.

    Without a mask, rows that begin with the padding id count as padded, unless that id is also a stop token: then
    only the caller can know.

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


def spans_from(ids: np.ndarray, past: int, visual: QWenVLVisionConfig) -> np.ndarray:
    """Bool, one per ``<img>`` in order of appearance over the rows: whether it stands at position ``past`` or later."""
    return np.nonzero(ids == visual.image_start_id)[1] >= past


def image_sources_from_ids(ids: np.ndarray, visual: QWenVLVisionConfig) -> list[str]:
    """The paths or addresses that the original's tokenizer writes into ``<img>`` spans, one id per UTF-8 byte.

    Args:
        ids: int ``[batch, length]``.

    Returns:
        One per span, in order of appearance over the rows.

    Raises:
        PromptError: a span is not closed or holds no path.
    """
    sources = []
    for row in ids.tolist():
        position = 0
        while visual.image_start_id in row[position:]:
            start = row.index(visual.image_start_id, position) + 1
            if visual.image_end_id not in row[start:]:
                raise PromptError("input_ids: an <img> without its </img>; an image's span was cut")
            position = row.index(visual.image_end_id, start)
            content = row[start:position]
            path = content[: content.index(visual.image_pad_id)] if visual.image_pad_id in content else content
            if not path:
                raise PromptError("images: missing; the <img> spans in input_ids hold no path, so pass images=")
            if max(path) > 255:
                raise PromptError("input_ids: an <img> span holds other ids than the bytes of a path; pass images=")
            try:
                sources.append(bytes(path).decode("utf-8"))
            except UnicodeDecodeError:
                raise PromptError("input_ids: the path in an <img> span is not UTF-8") from None
    return sources


def load_images_of_ids(
    ids: np.ndarray,
    visual: QWenVLVisionConfig,
    policy: ImagePolicy | None = None,
    image_processor: QwenVLImageProcessor | None = None,
) -> paddle.Tensor:
    """Read the images named in the ids: float32 ``[n, 3, side, side]``. Each different one is read once.

    Args:
        policy: what may be read; ``ImagePolicy.scripts()`` (files and public addresses) by default.
        image_processor: turns them into pixels; by default one of the model's size with the original's choices.

    Raises:
        PromptError, ImageError.
    """
    from ...media import ImagePolicy
    from .processing import QwenVLImageProcessor

    policy = ImagePolicy.scripts() if policy is None else policy
    sources = image_sources_from_ids(ids, visual)
    different = list(dict.fromkeys(sources))
    if image_processor is None:
        image_processor = QwenVLImageProcessor(image_size=visual.image_size)
    pixels = image_processor(different, policy)
    return paddle.to_tensor(np.asarray(pixels)[[different.index(source) for source in sources]])
