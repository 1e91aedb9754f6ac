"""Where in the token ids the images stand."""

from __future__ import annotations

import numpy as np
import paddle

from ...errors import PromptError
from .configuration import QWenVLVisionConfig


def image_slots(input_ids: np.ndarray, visual: QWenVLVisionConfig) -> np.ndarray:
    """Flat indices of the placeholders of every image in ``[batch, length]`` ids: int64 ``[n, n_queries]``.

    Raises:
        PromptError: a ``<img>`` without its ``</img>`` in the same row, or a span that has not ``n_queries``
        placeholders.
    """
    flat = input_ids.reshape(-1)
    starts = np.flatnonzero(flat == visual.image_start_id)
    ends = np.flatnonzero(flat == visual.image_end_id)
    if len(starts) != len(ends):
        raise PromptError(f"input_ids: {len(starts)} <img> but {len(ends)} </img>; an image's span was cut")
    lengths = ends - starts - 1
    crosses_rows = starts // input_ids.shape[-1] != ends // input_ids.shape[-1]
    if (lengths != visual.n_queries).any() or crosses_rows.any():
        raise PromptError(
            f"input_ids: every <img> span must hold {visual.n_queries} placeholders, "
            f"got spans of {sorted(set(lengths.tolist()))}"
        )
    return (starts[:, None] + 1 + np.arange(visual.n_queries)).astype(np.int64)


def refuse_empty_spans(input_ids: paddle.Tensor, visual: QWenVLVisionConfig) -> None:
    """Raise PromptError where a whole span waits for an image; a lone ``<img>`` may be what the model wrote."""
    behind = visual.n_queries + 1
    if input_ids.shape[-1] <= behind:
        return
    ids = input_ids.numpy()
    spans = (ids[..., :-behind] == visual.image_start_id) & (ids[..., behind:] == visual.image_end_id)
    if spans.any():
        raise PromptError(
            f"images: missing for {spans.sum()} <img> span(s) in input_ids; the model itself reads no paths, "
            "generate and chat do"
        )
