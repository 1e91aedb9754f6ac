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
from .pointers import NAMING_LAYER, READING_LAYER, TWIN_LAYER, pointer_loss

COORDINATE_DIGITS = 8  # hundreds and tens of four coordinates
# A coordinate is also learned as an angle with these periods, in parts of the image's side. Hundreds can be read off
# the first and tens off the last by a linear layer; off the number itself they cannot, least of all the tens.
PERIODS = (1.0, 0.3, 0.1)
# Distances teach from afar, IoU what counts in the end: an edge of a small object's box more than one of a large one.
L1_WEIGHT, ANGLE_WEIGHT, IOU_WEIGHT = 5.0, 2.0, 2.0
BOX_OUTPUTS = 4 + 4 * 2 * len(PERIODS)


class TrainingModel(nn.Layer):
    """The model and its training heads; ``forward`` returns the loss.

    Args:
        model: the model to train.
        name_ids: for every kind, the ids of its names (one token each, the same number for every kind).
        digit_ids: of 0 to 9.
        head_weight: what the heads' losses count beside the language-model loss.
    """

    def __init__(
        self,
        model: QWenLMHeadModel,
        name_ids: Sequence[Sequence[int]],
        digit_ids: Sequence[int],
        head_weight: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.head_weight = head_weight
        width, hidden = model.config.visual.width, model.config.hidden_size
        self.name_ids = [list(ids) for ids in zip(*name_ids)]
        self.digit_ids = list(digit_ids)
        self.name_scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.6 * hidden**-0.5))
        self.patch_head = nn.Linear(width, len(KINDS) + 1)
        self.patch_box_head = nn.Linear(width, BOX_OUTPUTS)
        self.object_head = nn.Linear(hidden, 1)
        self.box_head = nn.Linear(hidden, BOX_OUTPUTS)
        self.named_box_head = nn.Linear(hidden, BOX_OUTPUTS)
        self.digit_head = nn.Linear(hidden, COORDINATE_DIGITS * 10)
        self.color_head = nn.Linear(hidden, len(COLORS) + 1)
        self.word_head = nn.Linear(hidden, len(WORDS) + 1)
        self.number_head = nn.Linear(hidden, 2)
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
        soft_targets: paddle.Tensor | None = None,
        digit_shifts: paddle.Tensor | None = None,
        name_positions: paddle.Tensor | None = None,
        name_columns: paddle.Tensor | None = None,
        name_weights: paddle.Tensor | None = None,
        boxed_positions: paddle.Tensor | None = None,
        name_boxes: paddle.Tensor | None = None,
        read_positions: paddle.Tensor | None = None,
        read_columns: paddle.Tensor | None = None,
        read_weights: paddle.Tensor | None = None,
        twin_positions: paddle.Tensor | None = None,
        twin_columns: paddle.Tensor | None = None,
        twin_weights: paddle.Tensor | None = None,
        numbered_positions: paddle.Tensor | None = None,
        numbers: paddle.Tensor | None = None,
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
            soft_targets: int64 ``[digits]``, which of the targets are digits of coordinates.
            digit_shifts: float32 ``[digits, 10]``, what to add to the loss of the right digit for each logit of 0 to 9,
                so that it becomes that of the shares in :mod:`.coordinates`.
            name_positions, name_columns, name_weights: ``[names]``, flat indices of names, the column in the row where
                each should look, and how much that counts.
            boxed_positions: int64 ``[n]``, flat indices of the names that one object bears; ``name_boxes`` float32
                ``[n, 4]``: its corners in [0, 1].
            read_positions, read_columns, read_weights: where positions should look that predict something of an object
                or a sign.
            twin_positions, twin_columns, twin_weights: where objects of a second image should look.
            numbered_positions, numbers: int64 ``[slots]``, flat indices of the vectors of two images, and of which
                image each is, from 0.
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
            logits = self.model.lm_head(predicting)
            token_losses = F.cross_entropy(logits, labels, reduction="none").reshape([-1])
            token_losses = soften(token_losses, logits, self.digit_ids, soft_targets, digit_shifts)
            parts["text"] = (token_losses * label_weights).sum() / label_weights.sum()
            looks = {
                "naming": (NAMING_LAYER, name_positions, name_columns, name_weights),
                "reading": (READING_LAYER, read_positions, read_columns, read_weights),
                "twin": (TWIN_LAYER, twin_positions, twin_columns, twin_weights),
            }
            for part, (layer, *where) in looks.items():
                block = self.model.transformer.h[layer]
                parts[part] = pointer_loss(
                    self.model.config, block, states[layer], position_ids, attention_mask, *where
                )
            parts["named_box"] = box_loss(
                self.named_box_head(_normalized(states[NAMING_LAYER + 1], boxed_positions)), name_boxes
            )
            slots = self.number_head(_normalized(states[TWIN_LAYER], numbered_positions))
            parts["number"] = F.cross_entropy(slots, numbers) if numbers.shape[0] else slots.sum()
            guides = sum(parts[part] for part in (*looks, "named_box", "number"))
            loss = loss + parts["text"] + guides * self.head_weight
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
        found_digits = paddle.gather(digits.reshape([-1, COORDINATE_DIGITS, 10]), index)
        digit_logits = self.digit_head(found).reshape([-1, COORDINATE_DIGITS, 10])
        losses["digit"] = F.cross_entropy(digit_logits, found_digits, soft_label=True)
        losses["color"] = F.cross_entropy(self.color_head(found), paddle.gather(colors.flatten(), index)) * 0.5
        return losses


def soften(
    losses: paddle.Tensor,
    logits: paddle.Tensor,
    digit_ids: Sequence[int],
    soft_targets: paddle.Tensor,
    digit_shifts: paddle.Tensor,
) -> paddle.Tensor:
    """Cross entropies ``[targets]`` of the right tokens, those of ``soft_targets`` turned into those of shares.

    A cross entropy is the logarithm of the sum of all exponentials less the mean logit under the targets' shares: only
    the latter differs. ``digit_shifts``: the right digit's row of a unit matrix less the shares.
    """
    if not soft_targets.shape[0]:
        return losses
    digits = paddle.gather(paddle.gather(logits, soft_targets), paddle.to_tensor(digit_ids), axis=1)
    return paddle.scatter_nd_add(losses, soft_targets.unsqueeze(-1), (digits * digit_shifts).sum(axis=-1))


def _normalized(states: paddle.Tensor, positions: paddle.Tensor) -> paddle.Tensor:
    """States ``[rows, length, hidden]`` at flat positions, each with mean 0 and variance 1: ``[positions, hidden]``."""
    chosen = paddle.gather(states.reshape([-1, states.shape[-1]]), positions)
    return F.layer_norm(chosen, chosen.shape[-1:])


def class_loss(logits: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
    """Mean cross entropy where there is a class: ``[n, positions, classes]`` against int64 ``[n, positions]``, negative
    for none; 0 if there is none at all."""
    losses = F.cross_entropy(logits, classes.clip(min=0).unsqueeze(-1), reduction="none").squeeze(-1)
    counted = (classes >= 0).astype(losses.dtype)
    return (losses * counted).sum() / counted.sum().clip(min=1.0)


def box_loss(outputs: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """Distance of corners and of their angles, and generalized IoU: ``[n, BOX_OUTPUTS]`` against ``[n, 4]`` in [0, 1].

    0 of no boxes.
    """
    if not boxes.shape[0]:
        return outputs.sum()
    corners = F.sigmoid(outputs[:, :4])
    angles = paddle.concat([boxes * (2 * math.pi / period) for period in PERIODS], axis=-1)
    targets = paddle.concat([paddle.sin(angles), paddle.cos(angles)], axis=-1)
    return (
        F.l1_loss(corners, boxes) * L1_WEIGHT
        + F.mse_loss(outputs[:, 4:], targets) * ANGLE_WEIGHT
        + (1.0 - generalized_iou(corners, boxes).mean()) * IOU_WEIGHT
    )


def generalized_iou(a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
    """``[n]`` of boxes ``[n, 4]`` (x1, y1, x2, y2): IoU less the part of the box around both that neither covers."""

    def area(low: paddle.Tensor, high: paddle.Tensor) -> paddle.Tensor:
        sides = (high - low).clip(min=0.0)
        return sides[:, 0] * sides[:, 1]

    low_a, high_a, low_b, high_b = a[:, :2], a[:, 2:], b[:, :2], b[:, 2:]
    both = area(paddle.maximum(low_a, low_b), paddle.minimum(high_a, high_b))
    either = area(low_a, high_a) + area(low_b, high_b) - both
    around = area(paddle.minimum(low_a, low_b), paddle.maximum(high_a, high_b)).clip(min=1e-6)
    return both / either.clip(min=1e-6) - (around - either) / around
