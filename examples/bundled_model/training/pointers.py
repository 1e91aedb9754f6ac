"""Where the decoder should look in training: one attention head of some layers is told by its attention weights.

Left to itself, a decoder finds out late that a name belongs to the image's vector that resembles it: as long as no
head looks there, there is nothing to gain from looking better. Here the first layer's head looks from each name to the
objects that bear it, and from a name that none bears to the name itself, which tells that there is none. The second
layer's looks from each object of a second image to those of its kind in the first, or to itself. The third layer's
looks from each position that is about to say something of an object (its name, its box, its color, its printed word,
its image) to that object. All are ordinary heads of the model.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from paddlemix.models.qwen_vl.attention_metadata import dense_mask, rotary_base, rotary_tensors
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.language import QWenBlock

NAMING_LAYER = 0
TWIN_LAYER = 1
READING_LAYER = 2
HEAD = 0


def pointer_loss(
    config: QWenVLConfig,
    block: QWenBlock,
    states: paddle.Tensor,
    position_ids: paddle.Tensor,
    attention_mask: paddle.Tensor,
    positions: paddle.Tensor,
    columns: paddle.Tensor,
    weights: paddle.Tensor,
) -> paddle.Tensor:
    """Mean of −log of the weight that head ``HEAD`` of ``block`` gives to the column where it should look.

    Args:
        states: float32 ``[rows, length, hidden]``, the block's input.
        position_ids: int64 ``[rows, length]``.
        attention_mask: bool ``[rows, length, length]``, who may see whom, causality aside.
        positions: int64 ``[n]``, flat indices into ``[rows, length]`` that should look.
        columns: int64 ``[n]``, where, in the same row.
        weights: float32 ``[n]``, how much each counts in the mean.
    """
    if not positions.shape[0]:
        return states.sum() * 0.0
    width = config.kv_channels
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    normalized, _ = block.ln_1(states, None)
    query_columns = slice(HEAD * width, (HEAD + 1) * width)
    key_columns = slice(config.hidden_size + HEAD * width, config.hidden_size + (HEAD + 1) * width)
    place = paddle.get_device()
    tables = rotary_tensors(config.max_position_embeddings, width, (rotary_base(config, 1.0),), place)
    cos, sin = (
        paddle.gather(table[0], position_ids.reshape([-1])).reshape([*states.shape[:2], width]) for table in tables
    )

    def rotated(part: slice) -> paddle.Tensor:
        x = normalized @ weight[:, part] + bias[part]
        return x * cos + paddle.roll(x, width // 2, axis=-1) * sin

    scores = paddle.matmul(rotated(query_columns), rotated(key_columns), transpose_y=True) * width**-0.5
    scores = scores + dense_mask(states.shape[1], attention_mask, states.dtype).reshape(scores.shape)
    chosen = paddle.gather(scores.reshape([-1, scores.shape[-1]]), positions)
    losses = F.cross_entropy(chosen, columns, reduction="none").reshape([-1])
    return (losses * weights).sum() / weights.sum()
