"""A model split among processes: each has some heads, some hidden units of the feed-forward layers and some tokens.

All processes run the same program on the same inputs. Layers compute with their local weights; one reduction stands
behind each attention and each feed-forward layer (``layers.row_parallel``), one behind the embeddings, and logits are
put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ...checkpoint.shards import Partition, Shard
from ...parallel.group import SINGLE, TensorParallelGroup
from .language import QWenAttention, QWenMLP
from .vision import CrossAttention, VisualAttention, VisualMLP

if TYPE_CHECKING:
    from .modeling import QWenLMHeadModel

Apply = Callable[[paddle.Tensor], paddle.Tensor]
_REDUCING = (QWenAttention, QWenMLP, VisualAttention, VisualMLP, CrossAttention)
"""Layers behind which the processes' results are added up."""


class VocabularyShares:
    """Embeddings and logits of a vocabulary that is divided among processes.

    Args:
        group: the processes.
        widths: tokens of each, by rank.
    """

    def __init__(self, group: TensorParallelGroup = SINGLE, widths: tuple[int, ...] = ()) -> None:
        self.group, self.widths = group, widths
        self.first = sum(widths[: group.rank])

    def bound_embedding(self, layer: Apply) -> Apply:
        """:meth:`embed` with this layer."""
        return layer if self.group.size == 1 else lambda ids: self.embed(layer, ids)

    def bound_head(self, head: Apply) -> Apply:
        """:meth:`logits` with this head."""
        return head if self.group.size == 1 else lambda hidden: self.logits(head, hidden)

    def embed(self, layer: Apply, ids: paddle.Tensor) -> paddle.Tensor:
        """``[..., hidden]`` of ids ``[...]``, from a table of this process's tokens."""
        if self.group.size == 1:
            return layer(ids)
        own, width = ids - self.first, self.widths[self.group.rank]
        is_own = paddle.logical_and(own >= 0, own < width)
        found = layer(paddle.where(is_own, own, paddle.zeros_like(own)))
        return self.group.reduce(found * is_own.unsqueeze(-1).astype(found.dtype))

    def logits(self, head: Apply, hidden: paddle.Tensor) -> paddle.Tensor:
        """``[..., vocab]``, of a head for this process's tokens."""
        if self.group.size == 1:
            return head(hidden)
        return self.group.gather(head(self.group.copy(hidden)), self.widths)


def join(group: TensorParallelGroup, tensor: paddle.Tensor, shards: Sequence[Shard]) -> np.ndarray:
    """In the first process, the whole of which all have parts; every process calls this at the same point.

    Args:
        group: the processes.
        tensor: the part of this process.
        shards: of the processes, by rank.
    """
    parts = group.collect(tensor, [shard.shape for shard in shards])
    if group.rank > 0:
        return np.empty(0)
    arrays = [part.numpy() for part in parts]
    whole = np.empty(shards[0].whole, arrays[0].dtype)
    for shard, array in zip(shards, arrays):
        shard.put(whole, array)
    return whole


def split_model(model: QWenLMHeadModel, partition: Partition, group: TensorParallelGroup) -> None:
    """Leave only this process's part in a model whose weights are still to be read.

    Args:
        model: just made, under ``paddle.LazyGuard``.
        partition: of its weights.
        group: the processes.
    """
    layers = dict(model.named_sublayers())
    for name, shard in partition.shards.items():
        path, _, attribute = name.rpartition(".")
        layer = layers[path]
        parameter = layer.create_parameter(list(shard.shape))
        parameter.is_distributed = True
        setattr(layer, attribute, parameter)
    heads = {QWenAttention: "heads", VisualAttention: "vit_heads", CrossAttention: "out_heads"}
    for path, layer in layers.items():
        if isinstance(layer, _REDUCING) and any(name.startswith(f"{path}.") for name in partition.shards):
            layer.group = group
            if type(layer) in heads:
                layer.heads = len(partition.own(heads[type(layer)]))
    widths = tuple(len(partition.own("vocab", rank)) for rank in range(group.size))
    model.transformer.vocabulary = VocabularyShares(group, widths)
    model.partition, model.group = partition, group
