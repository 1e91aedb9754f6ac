"""A model split among processes: each has some heads, some hidden units of the feed-forward layers and some tokens.

All processes run the same program on the same inputs. Layers compute with their local weights; one reduction stands
behind each attention and each feed-forward layer (``layers.row_parallel``), one behind the embeddings, and logits are
put together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from ...checkpoint.shards import Partition, Shard
from ...parallel.group import TensorParallelGroup
from .causal_lm import QWenCausalLM
from .language import QWenAttention, QWenMLP
from .layers import VocabularyShares
from .vision import CrossAttention, VisualAttention, VisualMLP

_REDUCING = (QWenAttention, QWenMLP, VisualAttention, VisualMLP, CrossAttention)
"""Layers behind which the processes' results are added up."""


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


def split_model(model: QWenCausalLM, partition: Partition, group: TensorParallelGroup) -> None:
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
