"""The model in training: with heads on its patches and queries that teach the vision part what and where things are.

Through the decoder alone, the vision part learns slowly: it hears of an object only after the decoder has found out
which of the feature vectors a question is about. The heads tell each patch and each query directly. They are dropped
afterwards.

The class head has no weights of its own: a query's feature vector is compared with the decoder's word embeddings of the
objects' names. A name in a question then already resembles the vector of the object it means. Two attention heads of
the decoder are told where to look (:mod:`.pointers`), and where a name has looked, the object's box must be readable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel

from ..scenes.lexicon import COLORS, KINDS, WORDS
from .pointers import NAMING_LAYER, READING_LAYER, pointer_loss

COORDINATE_DIGITS = 8  # hundreds and tens of four coordinates
# A coordinate is also learned as an angle with these periods, in parts of the image's side. Hundreds can be read off
# the first and tens off the last by a linear layer; off the number itself they cannot, least of all the tens.
PERIODS = (1.0, 0.3, 0.1)
BOX_OUTPUTS = 4 + 4 * 2 * len(PERIODS)


class TrainingModel(nn.Layer):
    """The model and its training heads; ``forward`` returns the loss.

    Args:
        model: the model to train.
        name_ids: for every kind, the ids of its names (one token each, the same number for every kind).
        head_weight: what the heads' losses count beside the language-model loss.
    """

    def __init__(self, model: QWenLMHeadModel, name_ids: Sequence[Sequence[int]], head_weight: float) -> None:
        super().__init__()
        self.model = model
        self.head_weight = head_weight
        width, hidden = model.config.visual.width, model.config.hidden_size
        self.name_ids = [list(ids) for ids in zip(*name_ids)]
        self.name_scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.6 * hidden**-0.5))
        self.patch_head = nn.Linear(width, len(KINDS) + 1)
        self.patch_box_head = nn.Linear(width, BOX_OUTPUTS)
        self.object_head = nn.Linear(hidden, 1)
        self.box_head = nn.Linear(hidden, BOX_OUTPUTS)
        self.named_box_head = nn.Linear(hidden, BOX_OUTPUTS)
        self.digit_head = nn.Linear(hidden, COORDINATE_DIGITS * 10)
        self.colour_head = nn.Linear(hidden, len(COLORS) + 1)
        self.word_head = nn.Linear(hidden, len(WORDS) + 1)
        self.patch_word_head = nn.Linear(width, len(WORDS))
        self.parts: dict[str, paddle.Tensor] = {}

    def forward(
        self,
        images: paddle.Tensor,
        *,
        described: paddle.Tensor | None = None,
        input_ids: paddle.Tensor | None = None,
        position_ids: paddle.Tensor | None = None,
        attention_mask: paddle.Tensor | None = None,
        sources: paddle.Tensor | None = None,
        labels: paddle.Tensor | None = None,
        label_weights: paddle.Tensor | None = None,
        name_positions: paddle.Tensor | None = None,
        name_columns: paddle.Tensor | None = None,
        name_boxes: paddle.Tensor | None = None,
        read_positions: paddle.Tensor | None = None,
        read_columns: paddle.Tensor | None = None,
        read_weights: paddle.Tensor | None = None,
        **targets: paddle.Tensor,
    ) -> dict[str, paddle.Tensor]:
        """The loss of a batch as ``SceneCollator`` makes it.

        Args:
            images: float32 ``[n, 3, side, side]``.
            described: int64 ``[images in rows]``, which of the images the rows show, in order.
            input_ids, position_ids: int64 ``[rows, length]``; left out in the stage that trains the vision part alone.
            attention_mask: bool ``[rows, length, length]``, who may see whom.
            sources: int64 ``[targets]``, flat indices of the positions that predict.
            labels, label_weights: ``[targets]``, what they should predict and how much it counts.
            name_positions, name_columns: int64 ``[names]``, flat indices of the names that one object bears, and the
                column of its vector in the row. ``name_boxes`` float32 ``[names, 4]``: its corners in [0, 1].
            read_positions, read_columns: the same for positions that predict something of an object or a sign;
                ``read_weights`` float32 ``[reads]``: how much each counts.
            **targets: for the heads, see :class:`~.dataset.HeadTargets`, a batch of them.
        """
        visual = self.model.visual
        patch_states = visual.transformer(visual.ln_pre(visual.embed_patches(images))[0])
        features = visual.ln_post(visual.attn_pool(patch_states))[0] @ visual.proj
        parts = self.head_losses(patch_states, features, **targets)
        loss = sum(parts.values()) * self.head_weight
        if input_ids is not None:
            shown = paddle.gather(features, described)
            embeddings = self.model.transformer.embed(input_ids, image_features=shown)
            hidden, states = self.model.transformer(embeddings, attention_mask, position_ids, output_hidden_states=True)
            predicting = paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), sources)
            token_losses = F.cross_entropy(self.model.lm_head(predicting), labels, reduction="none").reshape([-1])
            parts["text"] = (token_losses * label_weights).sum() / label_weights.sum()
            looks = {
                "naming": (NAMING_LAYER, name_positions, name_columns, paddle.ones_like(name_boxes[:, 0])),
                "reading": (READING_LAYER, read_positions, read_columns, read_weights),
            }
            for part, (layer, *where) in looks.items():
                block = self.model.transformer.h[layer]
                parts[part] = pointer_loss(
                    self.model.config, block, states[layer], position_ids, attention_mask, *where
                )
            looked = paddle.gather(states[NAMING_LAYER + 1].reshape([-1, hidden.shape[-1]]), name_positions)
            parts["named_box"] = box_loss(self.named_box_head(F.layer_norm(looked, looked.shape[-1:])), name_boxes)
            loss = loss + parts["text"] + (parts["naming"] + parts["reading"] + parts["named_box"]) * self.head_weight
        self.parts = {name: value.detach() for name, value in parts.items()}
        return {"loss": loss}

    def head_losses(
        self,
        patch_states: paddle.Tensor,
        features: paddle.Tensor,
        kinds: paddle.Tensor,
        boxes: paddle.Tensor,
        digits: paddle.Tensor,
        colors: paddle.Tensor,
        words: paddle.Tensor,
        patches: paddle.Tensor,
        patch_boxes: paddle.Tensor,
        patch_words: paddle.Tensor,
    ) -> dict[str, paddle.Tensor]:
        """The heads' losses by name, each a mean over what it speaks of."""
        # The ViT's last states have no norm of their own, and a head must not be at the mercy of their scale.
        patch_states = F.layer_norm(patch_states, patch_states.shape[-1:])
        occupied = kinds >= 0
        losses = {
            "patch": F.cross_entropy(self.patch_head(patch_states), patches.unsqueeze(-1)),
            "object": F.binary_cross_entropy_with_logits(
                self.object_head(features).squeeze(-1), occupied.astype("float32"), pos_weight=paddle.to_tensor(4.0)
            ),
            "word": F.cross_entropy(self.word_head(features), (words + 1).unsqueeze(-1)) * 4.0,
            "read_word": class_loss(self.word_head(features)[..., 1:], words),
            "patch_word": class_loss(self.patch_word_head(patch_states), patch_words),
        }
        index = paddle.nonzero(patches.flatten()).flatten()
        covered = paddle.gather(patch_states.reshape([-1, patch_states.shape[-1]]), index)
        covered_boxes = paddle.gather(patch_boxes.reshape([-1, 4]), index)
        losses["patch_box"] = box_loss(self.patch_box_head(covered), covered_boxes)
        index = paddle.nonzero(occupied.flatten()).flatten()
        found = paddle.gather(features.reshape([-1, features.shape[-1]]), index)
        found_kinds = paddle.gather(kinds.flatten(), index)
        scaled = found * self.name_scale
        losses["kind"] = sum(
            F.cross_entropy(scaled @ self.model.transformer.wte(paddle.to_tensor(ids)).T, found_kinds)
            for ids in self.name_ids
        ) / len(self.name_ids)
        found_boxes = paddle.gather(boxes.reshape([-1, 4]), index)
        losses["box"] = box_loss(self.box_head(found), found_boxes)
        found_digits = paddle.gather(digits.reshape([-1, COORDINATE_DIGITS]), index)
        digit_logits = self.digit_head(found).reshape([-1, COORDINATE_DIGITS, 10])
        losses["digit"] = F.cross_entropy(digit_logits, found_digits.unsqueeze(-1))
        losses["color"] = F.cross_entropy(self.colour_head(found), paddle.gather(colors.flatten(), index)) * 0.5
        return losses


def class_loss(logits: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
    """Mean cross entropy where there is a class: ``[n, positions, classes]`` against int64 ``[n, positions]``, negative
    for none; 0 if there is none at all."""
    losses = F.cross_entropy(logits, classes.clip(min=0).unsqueeze(-1), reduction="none").squeeze(-1)
    counted = (classes >= 0).astype(losses.dtype)
    return (losses * counted).sum() / counted.sum().clip(min=1.0)


def box_loss(outputs: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """Distance of corners and of their angles: ``[n, BOX_OUTPUTS]`` against ``[n, 4]`` in [0, 1]; 0 of no boxes."""
    if not boxes.shape[0]:
        return outputs.sum()
    angles = paddle.concat([boxes * (2 * math.pi / period) for period in PERIODS], axis=-1)
    targets = paddle.concat([paddle.sin(angles), paddle.cos(angles)], axis=-1)
    return F.l1_loss(F.sigmoid(outputs[:, :4]), boxes) * 5.0 + F.mse_loss(outputs[:, 4:], targets)
