"""Encoded records to the arrays of a batch: padding, packing, images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ImageError
from ..media import ImagePolicy
from ..models.qwen_vl.image_processing import QwenVLImageProcessor
from ..models.qwen_vl.processing import QwenVLProcessor
from ..models.qwen_vl.vocabulary import IGNORE_INDEX
from .encoding import Example

PADDING_SEGMENT = -1
"""Segment id of padding; the examples of a row have ids from 1."""


@dataclass(frozen=True)
class ExampleBatch:
    """The examples of one forward pass.

    Attributes:
        rows: one or, packed, several examples each; none for a process that has no row left in a step.
        record_ids: record index of each example, row by row.
        target_count: divisor of the summed loss, see :class:`~.batching.MicroBatch`.
    """

    rows: tuple[tuple[Example, ...], ...]
    record_ids: tuple[int, ...]
    target_count: float


class Collator:
    """An :class:`ExampleBatch` to the arguments of the fine-tuning model.

    - ``input_ids``, ``labels``: int64 ``[rows, longest]``, padded on the right. The first label of every example is
      ignored, so that shifting by one never predicts an example from another.
    - ``attention_mask``, ``position_ids``: int64 ``[rows, longest]``, only if examples share a row. The mask holds
      segment ids: the examples of a row count from 1, padding is -1. Positions start at 0 in every example. Without
      them causal attention is all that is needed.
    - ``images``: float32 ``[n, 3, side, side]``, in order of appearance; absent where there are none.
    - ``target_count``: float32 ``[1]``.
    - ``record_ids``: int64 ``[examples]``.

    Args:
        pad_id: token id of padding.
        image_processor: of the model.
        policy: which images may be read; by default files and public URLs.

    Raises:
        ImageError: calling it, for an image that cannot be read; the message begins with the record's source location.
    """

    def __init__(self, pad_id: int, image_processor: QwenVLImageProcessor, policy: ImagePolicy | None = None) -> None:
        self.pad_id = pad_id
        self.image_processor = image_processor.without_notes()  # the report on the data had them
        self.policy = policy if policy is not None else ImagePolicy.scripts()

    @classmethod
    def of(cls, processor: QwenVLProcessor, policy: ImagePolicy | None = None) -> Collator:
        """The collator of a model's processor."""
        return cls(processor.tokenizer.eod_id, processor.image_processor, policy)

    def __call__(self, batch: ExampleBatch) -> dict[str, np.ndarray]:
        """The arrays of a batch."""
        arrays = collate_ids(batch.rows, self.pad_id)
        images = self._images([example for row in batch.rows for example in row])
        if images is not None:
            arrays["images"] = images
        arrays["target_count"] = np.asarray([batch.target_count], np.float32)
        arrays["record_ids"] = np.asarray(batch.record_ids, np.int64)
        return arrays

    def _images(self, examples: Sequence[Example]) -> np.ndarray | None:
        """float32 ``[n, 3, side, side]``; an image that occurs several times is opened once."""
        opened: dict[str, np.ndarray] = {}
        pixels = []
        for example in examples:
            for source in example.images:
                if source not in opened:
                    try:
                        opened[source] = self.image_processor(source, self.policy)[0]
                    except ImageError as error:
                        raise ImageError(f"{example.location}: {error}") from error
                pixels.append(opened[source])
        return np.stack(pixels) if pixels else None


def collate_ids(rows: Sequence[Sequence[Example]], pad_id: int) -> dict[str, np.ndarray]:
    """The token arrays of a batch, see :class:`Collator`.

    Args:
        rows: the examples of each row; without any, the result is one row of one ignored padding id.
        pad_id: token id of padding.

    Returns:
        ``input_ids`` and ``labels``, and if examples share a row, ``attention_mask`` (segments) and ``position_ids``.
    """
    shape = max(len(rows), 1), max((sum(map(len, row)) for row in rows), default=1)
    arrays = {"input_ids": np.full(shape, pad_id, np.int64), "labels": np.full(shape, IGNORE_INDEX, np.int64)}
    packed = any(len(row) > 1 for row in rows)
    if packed:
        arrays["attention_mask"] = np.full(shape, PADDING_SEGMENT, np.int64)
        arrays["position_ids"] = np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            at = index, slice(start, start + len(example))
            arrays["input_ids"][at] = example.input_ids
            arrays["labels"][at] = example.labels
            arrays["labels"][index, start] = IGNORE_INDEX
            if packed:
                arrays["attention_mask"][at] = segment
                arrays["position_ids"][at] = np.arange(len(example))
            start += len(example)
    return arrays
