"""The model under training: called with a batch, it returns the loss."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn as nn

from ..data.collation import PADDING_SEGMENT
from ..errors import PromptError
from ..models.qwen_vl.attention_metadata import PackedSequence
from ..models.qwen_vl.modeling import QWenLMHeadModel
from ..models.qwen_vl.vocabulary import IGNORE_INDEX
from .linear_cross_entropy import head_cross_entropy


class FinetuneModel(nn.Layer):
    """Qwen-VL whose ``forward`` returns the loss and never holds all logits.

    A batch without images gives the visual part no gradient at all, where the original runs a blank image through it
    for zeros; the trainer treats missing gradients as zeros.

    Args:
        model: the model to train; its parameters are this layer's, under ``model.``.
        loss_chunk_size: positions per chunk of the cross-entropy, see :mod:`.linear_cross_entropy`.
        recompute: activation checkpointing of the decoder layers, the ViT blocks and the resampler.
    """

    def __init__(self, model: QWenLMHeadModel, loss_chunk_size: int | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self.loss_chunk_size = loss_chunk_size
        for layer in model.sublayers():
            if hasattr(layer, "enable_recompute"):
                layer.enable_recompute = recompute

    def forward(
        self,
        input_ids: paddle.Tensor,
        labels: paddle.Tensor,
        position_ids: paddle.Tensor | None = None,
        attention_mask: paddle.Tensor | None = None,
        images: paddle.Tensor | None = None,
        target_count: paddle.Tensor | None = None,
    ) -> dict[str, paddle.Tensor]:
        """The loss of predicting ``labels`` one position ahead.

        Args:
            input_ids: int64 ``[batch, length]``; each image is ``<img>``, placeholders, ``</img>``. Padding is on
                the right.
            labels: int64 ``[batch, length]``, aligned with the ids; −100 is ignored. In packed rows the first token of
                each conversation is ignored.
            position_ids: int64 ``[batch, length]``; by default they count from the row's start.
            attention_mask: which positions may attend to which, causality aside: int64 segments ``[batch, length]``
                as :func:`packed_sequences` reads them, or bool ``[batch, length, length]``. Rows of one conversation
                need none.
            images: float32 ``[n, 3, side, side]``, in order of appearance over the rows.
            target_count: float32 ``[1]``, divisor of the summed loss; by default the number of targets in the batch.

        Returns:
            ``loss``, a float32 scalar.

        Raises:
            PromptError: a mask of another shape, or a number of images other than that of their placeholders.
            OperatorError: a label outside the vocabulary.
        """
        transformer = self.model.transformer
        visual = self.model.config.visual
        features = paddle.zeros([0, visual.n_queries, visual.output_dim]) if images is None else None
        embeddings = transformer.embed(input_ids, images, features)
        mask, sequences = _attention_arguments(attention_mask, input_ids)
        hidden, _ = transformer(embeddings, mask, position_ids, sequences=sequences)
        following = paddle.concat(
            [labels[:, 1:], paddle.full([labels.shape[0], 1], IGNORE_INDEX, labels.dtype)], axis=1
        )
        following = following.flatten()
        total = head_cross_entropy(
            hidden.reshape([-1, hidden.shape[-1]]),
            self.model.lm_head,
            self.model.config.vocab_size,
            following,
            chunk_size=self.loss_chunk_size,
            shares=transformer.vocabulary,
        )
        if total.stop_gradient and paddle.is_grad_enabled():
            total = total + self._zero_with_gradient()
        if target_count is None:
            target_count = (following != IGNORE_INDEX).astype("float32").sum().clip(min=1.0)
        return {"loss": total / target_count.reshape([])}

    def _zero_with_gradient(self) -> paddle.Tensor:
        """Zero, connected to a trainable parameter.

        Where a batch reaches none, as without images when only visual ones are trained, there is a backward pass all
        the same, in which the processes wait for each other.
        """
        trainable = next((p for p in self.parameters() if not p.stop_gradient), None)
        return paddle.zeros([]) if trainable is None else trainable.sum().astype("float32") * 0


def _attention_arguments(
    mask: paddle.Tensor | None, input_ids: paddle.Tensor
) -> tuple[paddle.Tensor | None, list[PackedSequence] | None]:
    """The bool mask or the packed sequences that ``mask`` stands for; neither for rows of one conversation.

    Packed sequences are attended to one by one, so no ``[length, length]`` mask is ever in memory.
    """
    if mask is None:
        return None, None
    batch, length = input_ids.shape
    if mask.dtype == paddle.bool and mask.shape == [batch, length, length]:
        return mask, None
    if mask.dtype in (paddle.int32, paddle.int64) and mask.shape == [batch, length]:
        return None, packed_sequences(mask.numpy())
    raise PromptError(
        f"attention_mask: got {str(mask.dtype).rpartition('.')[2]} {list(mask.shape)}, expected int64 segments "
        f"{[batch, length]} or bool {[batch, length, length]}"
    )


def packed_sequences(segments: np.ndarray) -> list[PackedSequence]:
    """The packed sequences of a batch: where each segment begins and ends.

    Args:
        segments: int64 ``[batch, length]``; the conversations of a row have different ids from 1 on, padding at its
            end has -1.

    Returns:
        One sequence for each conversation and each run of padding, row by row.

    Raises:
        PromptError: a segment id is 0 or occurs in several runs of a row.
    """
    sequences = []
    for row, line in enumerate(segments):
        ends = np.append(np.flatnonzero(line[1:] != line[:-1]) + 1, len(line))
        ids = line[ends - 1]
        if 0 in ids or len(np.unique(ids)) < len(ids) or PADDING_SEGMENT in ids[:-1]:
            raise PromptError(
                f"attention_mask: got segments {ids[:8].tolist()} in row {row}, expected a different id from 1 on for "
                f"each conversation and {PADDING_SEGMENT} for padding at the end; pass a bool mask for other layouts"
            )
        sequences += [PackedSequence(row, int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends)]
    return sequences
