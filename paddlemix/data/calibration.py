"""Calibration data: conversations from a file, as what a model is called with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..media import ImagePolicy
from ..models.qwen_vl.chat_template import render_training
from ..models.qwen_vl.messages import Message
from .records import read_records

if TYPE_CHECKING:
    import paddle

    from ..models.qwen_vl.processing import QwenVLProcessor


def read_conversations(
    path: str | os.PathLike[str], policy: ImagePolicy | None = None, exif_transpose: bool = False
) -> list[tuple[list[Message], bool]]:
    """The conversations in a file, and for each whether its text holds the labels of its images already.

    The file has the form that fine-tuning reads, see :func:`~paddlemix.data.records.read_records`, which
    takes ``policy`` and ``exif_transpose`` too.

    Raises:
        ConfigurationError: a file that cannot be read, or holds nothing.
        RecordError: a malformed conversation, with its line.
    """
    return [
        (record.messages, record.labeled) for record in read_records(path, policy=policy, exif_transpose=exif_transpose)
    ]


def model_inputs(
    conversations: Sequence[tuple[list[Message], bool]],
    processor: QwenVLProcessor,
    *,
    max_length: int,
    policy: ImagePolicy | None = None,
) -> Iterator[dict[str, paddle.Tensor]]:
    """Each conversation of at most ``max_length`` ids as the arguments of a model; longer ones are left out.

    ``policy``: which images may be read, by default files and public addresses. Raises ImageError.
    """
    import paddle

    policy = policy or ImagePolicy.scripts()
    for messages, labeled in conversations:
        example = render_training(processor.tokenizer, messages, image_labels=not labeled)
        if len(example.input_ids) > max_length:
            continue
        inputs = {"input_ids": paddle.to_tensor(np.asarray([example.input_ids], np.int64))}
        if example.images:
            inputs["images"] = paddle.to_tensor(processor.image_processor(list(example.images), policy))
        yield inputs
