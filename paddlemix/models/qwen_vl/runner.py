"""Qwen-VL for the engine: passes over rows of unrelated requests, and images encoded in slices of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ...engine.grammar import GrammarCompiler
from ...engine.protocols import RowInput
from .attention_metadata import paged_attention
from .kv_cache import PagedKVCache, cache_dtype, ntk_alpha, position_bytes

if TYPE_CHECKING:
    from .modeling import QWenLMHeadModel
    from .tokenization import QWenVLTokenizer


@dataclass
class ImageState:
    """An image between two slices of layers: output and residual of the last block, and how many blocks are done."""

    x: paddle.Tensor
    residual: paddle.Tensor | None = None
    done: int = 0


class QWenVLRunner:
    """A model as :class:`paddlemix.engine.protocols.ModelRunner`.

    Call it where gradients are off: only then are the operators' direct ways taken.

    Args:
        model: in evaluation mode.
        vocab_size: ids that may be chosen; the published embedding has more rows than there are tokens.
        adapter: names what was added to the model's weights.
    """

    def __init__(self, model: QWenLMHeadModel, vocab_size: int | None = None, adapter: str = "") -> None:
        """Read the sizes and the cache's dtype off the model."""
        config = model.config
        activations = str(model.transformer.ln_f.weight.dtype).rpartition(".")[2]
        self._model = model
        self._dtype = cache_dtype(config, activations)
        self.embedded = config.vocab_size
        self.vocab_size = min(config.vocab_size, vocab_size or config.vocab_size)
        self.window = config.max_position_embeddings
        self.image_tokens = config.visual.n_queries
        self.feature_bytes = self.image_tokens * config.hidden_size * (4 if activations == "float32" else 2)
        self.identity = f"{type(model).__name__} {activations} {self._dtype} {adapter}".encode()

    def position_factor(self, prompt_length: int) -> float:
        """The NTK factor of a prompt."""
        return ntk_alpha(prompt_length, self._model.config)

    def block_bytes(self, block_size: int) -> int:
        """Bytes of a block, over all layers."""
        return block_size * position_bytes(self._model.config, self._dtype)

    def new_cache(self, blocks: int, block_size: int) -> PagedKVCache:
        """A cache of so many blocks."""
        return PagedKVCache(self._model.config, blocks, block_size, self._dtype)

    def forward(self, rows: Sequence[RowInput], cache: PagedKVCache) -> list[np.ndarray]:
        """See :class:`.protocols.ModelRunner`: for each row float32 ``[row.logits, vocab]``."""
        model = self._model.transformer
        starts = np.array([row.start for row in rows], dtype=np.int32)
        lengths = np.array([len(row.ids) for row in rows], dtype=np.int32)
        table = _block_table(rows, starts + lengths, cache.block_size)
        metadata = paged_attention(self._model.config, starts, lengths, table, [row.position_factor for row in rows])
        x, residual = self._embed(rows, int(lengths.max())), None
        for block in model.h:
            x, residual = block(x, residual, metadata, cache)
        hidden, _ = model.ln_f(x, residual)
        wanted = [row.logits for row in rows]
        if not any(wanted):
            return [np.empty([0, self.embedded], dtype=np.float32) for _ in rows]
        logits = self._model.lm_head(_last_positions(hidden, lengths, wanted)).astype("float32").numpy()
        return np.split(logits, np.cumsum(wanted)[:-1])

    def begin_image(self, pixels: np.ndarray) -> ImageState:
        """Patches of float32 ``[3, side, side]``, before the first block."""
        return ImageState(self._model.visual.begin(paddle.to_tensor(pixels[None])))

    def continue_image(self, state: ImageState, layers: int) -> paddle.Tensor | None:
        """Go on through so many blocks; ``[n_queries, hidden]`` after the last."""
        visual = self._model.visual
        blocks = list(visual.transformer.resblocks)
        for block in blocks[state.done : state.done + layers]:
            state.x, state.residual = block(state.x, state.residual)
        state.done += layers
        if state.done < len(blocks):
            return None
        x = state.x if state.residual is None else state.x + state.residual
        return visual.finish(x)[0]

    def place_features(self, features: np.ndarray) -> paddle.Tensor:
        """Features from outside, ``[n_queries, hidden]``."""
        return paddle.to_tensor(features)

    def _embed(self, rows: Sequence[RowInput], longest: int) -> paddle.Tensor:
        """``[rows, longest, hidden]``: embeddings of the ids, features in their places, anything behind the ends."""
        ids = np.zeros([len(rows), longest], dtype=np.int64)
        places, features = [], []
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            for placed in row.features:
                first = index * longest + placed.offset
                places.append(np.arange(first, first + placed.count))
                features.append(placed.features[placed.first : placed.first + placed.count])
        embeddings = self._model.transformer.wte(paddle.to_tensor(ids))
        if not places:
            return embeddings
        hidden = embeddings.shape[-1]
        flat = paddle.scatter(
            embeddings.reshape([-1, hidden]),
            paddle.to_tensor(np.concatenate(places)),
            paddle.concat(features).astype(embeddings.dtype),
        )
        return flat.reshape(embeddings.shape)


def grammar_compiler(model: QWenLMHeadModel, tokenizer: QWenVLTokenizer) -> GrammarCompiler:
    """A compiler of grammars for the tokens that this model may choose.

    Raises:
        MissingDependencyError: ``llguidance`` is not installed.
    """
    size = min(model.config.vocab_size, tokenizer.vocab_size)
    return GrammarCompiler(tokenizer.encoding, size, tokenizer.im_end_id)


def _block_table(rows: Sequence[RowInput], ends: np.ndarray, block_size: int) -> np.ndarray:
    """int32 ``[rows, width]``: the blocks up to the end of each row's new positions."""
    needed = -(-ends // block_size)
    table = np.zeros([len(rows), int(needed.max())], dtype=np.int32)
    for index, row in enumerate(rows):
        table[index, : needed[index]] = row.blocks[: needed[index]]
    return table


def _last_positions(hidden: paddle.Tensor, lengths: np.ndarray, wanted: Sequence[int]) -> paddle.Tensor:
    """``[sum of wanted, hidden]``: so many last real positions of each row."""
    longest = hidden.shape[1]
    if longest == 1 and all(wanted):
        return hidden.squeeze(1)
    index = [
        np.arange(row * longest + length - count, row * longest + length)
        for row, (length, count) in enumerate(zip(lengths, wanted))
    ]
    return paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), paddle.to_tensor(np.concatenate(index)))
