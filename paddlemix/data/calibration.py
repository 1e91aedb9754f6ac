"""Calibration data for quantization: conversations from a file as model inputs."""

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
    """Read conversations from a file in the format of fine-tuning data.

    Args:
        path: of the file.
        policy: as in :func:`~paddlemix.data.records.read_records`.
        exif_transpose: likewise.

    Returns:
        For each conversation its messages, and whether the texts contain the ``Picture N: `` labels of the images.

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
    """The model's keyword arguments for each conversation.

    Args:
        conversations: from :func:`read_conversations`.
        processor: of the model.
        max_length: conversations of more tokens are skipped.
        policy: which images may be read; by default files and public URLs.

    Raises:
        ImageError: an image cannot be read.
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
