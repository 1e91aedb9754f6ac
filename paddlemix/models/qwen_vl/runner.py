"""Qwen-VL for the engine: passes over rows of unrelated requests, and images encoded in slices of layers."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ...engine.config import EngineConfig
from ...engine.engine import Engine
from ...engine.grammar import GrammarCompiler
from ...engine.parallel_runner import ParallelRunner
from ...engine.protocols import ModelRunner, RowChoice, RowInput
from ...errors import ConfigurationError
from ...ops import DECODE_MAX_QUERIES
from .attention_metadata import paged_attention
from .decode import bind
from .decode_steps import DecodeRun, DecodeSteps
from .kv_cache import PagedKVCache, cache_dtype, cache_room, ntk_alpha, position_bytes

if TYPE_CHECKING:
    from .causal_lm import QWenCausalLM
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

    def __init__(self, model: QWenCausalLM, vocab_size: int | None = None, adapter: str = "") -> None:
        """Read the sizes and the cache's dtype off the model."""
        config = model.config
        activations = str(model.transformer.ln_f.weight.dtype).rpartition(".")[2]
        self._model = model
        self._dtype = cache_dtype(config, activations)
        self._steps: DecodeSteps | None = None
        self.runs_ahead = paddle.get_device() != "cpu"
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
        return block_size * position_bytes(self._model.config, self._dtype, self._model.local_heads)

    def new_cache(self, blocks: int, block_size: int) -> PagedKVCache:
        """A cache of so many blocks."""
        self._steps = None  # with it goes what was captured over another cache, and that cache
        return PagedKVCache(self._model.config, blocks, block_size, self._dtype, self._model.local_heads)

    def grown_cache(self, cache: PagedKVCache, blocks: int) -> PagedKVCache:
        """``cache`` itself, with so many blocks."""
        self._steps = None  # what was captured has the old addresses
        cache.grow(blocks)
        return cache

    def forward(self, rows: Sequence[RowInput], cache: PagedKVCache) -> list[np.ndarray]:
        """See :class:`.protocols.ModelRunner`: for each row float32 ``[row.logits, vocab]``."""
        longest = max(len(row.ids) for row in rows)
        few = longest <= DECODE_MAX_QUERIES and not any(row.features for row in rows)
        steps = self._decode_steps(cache) if few else None
        wanted = [row.logits for row in rows]
        if steps is not None and longest == 1 and all(wanted):
            return np.split(steps.logits(rows).numpy(), len(rows))
        hidden = self._hidden(rows, longest, cache) if steps is None else steps.hidden(rows, longest)
        if not any(wanted):
            return [np.empty([0, self.embedded], dtype=np.float32) for _ in rows]
        logits = self._model.transformer.vocabulary.logits(self._model.lm_head, _last_positions(hidden, rows))
        if logits.dtype != paddle.float32:
            logits = logits.astype("float32")
        return np.split(logits.numpy(), np.cumsum(wanted)[:-1])

    def start_run(
        self, rows: Sequence[RowInput], choices: Sequence[RowChoice], cache: PagedKVCache, steps: int
    ) -> DecodeRun | None:
        """See :class:`.protocols.ModelRunner`."""
        decode_steps = self._decode_steps(cache)
        return None if decode_steps is None else decode_steps.start_run(rows, choices, steps)

    def _hidden(self, rows: Sequence[RowInput], longest: int, cache: PagedKVCache) -> paddle.Tensor:
        """``[rows, longest, hidden]`` after the final norm, computed by the layers."""
        model = self._model.transformer
        starts = np.array([row.start for row in rows], dtype=np.int32)
        lengths = np.array([len(row.ids) for row in rows], dtype=np.int32)
        table = _block_table(rows, starts + lengths, cache.block_size)
        metadata = paged_attention(self._model.config, starts, lengths, table, [row.position_factor for row in rows])
        x, residual = self._embed(rows, longest), None
        for block in model.h:
            x, residual = block(x, residual, metadata, cache)
        return model.ln_f(x, residual)[0]

    def _decode_steps(self, cache: PagedKVCache) -> DecodeSteps | None:
        """Steps over this cache with the model's weights of this moment; ``None`` where its layers have to compute."""
        if self._steps is None or not self._steps.are_current(cache):
            self._steps, decoder = None, bind(self._model)
            if decoder is not None:
                self._steps = DecodeSteps(self._model.config, decoder, cache, self.vocab_size)
        return self._steps

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
        transformer = self._model.transformer
        embeddings = transformer.vocabulary.embed(transformer.wte, paddle.to_tensor(ids))
        if not places:
            return embeddings
        hidden = embeddings.shape[-1]
        flat = paddle.scatter(
            embeddings.reshape([-1, hidden]),
            paddle.to_tensor(np.concatenate(places)),
            paddle.concat(features).astype(embeddings.dtype),
        )
        return flat.reshape(embeddings.shape)


def model_runner(model: QWenCausalLM, vocab_size: int | None = None, adapter: str = "") -> ModelRunner:
    """The runner of a model, which does everything in all of its processes where this is the first of several.

    Arguments are those of :class:`QWenVLRunner`.
    """
    runner = QWenVLRunner(model, vocab_size, adapter)
    return runner if model.channel is None else ParallelRunner(runner, model.channel)


def check_evaluating(model: QWenCausalLM) -> None:
    """Raise ConfigurationError for a model in training mode."""
    if model.training:
        raise ConfigurationError("generate: the model is in training mode; call model.eval() first")


LOCAL_BLOCK = 32
"""Positions of a block: where a conversation takes another turn within a block, all of it is computed again."""
_SMALL_CACHE = 1 << 28  # bytes for which the memory there is is not looked at, which takes a millisecond
WHOLE = 1 << 30
"""More positions, layers or rows than there are: nothing is cut into parts."""


def local_engine(
    model: QWenCausalLM,
    tokenizer: QWenVLTokenizer | None = None,
    *,
    has_text: bool = True,
    feature_images: int = 0,
    positions: int | None = None,
) -> Engine:
    """An engine for answers in this process: prompts and images are computed whole; on a CPU the cache grows as needed.

    Args:
        model: of the answers.
        tokenizer: ids that it does not know are never chosen.
        has_text: whether outputs have text; stop strings need it.
        feature_images: for so many images features are kept that no answer needs at the moment.
        positions: most that the cache is to hold; ``None``: as memory allows, on a GPU those of the window.

    Raises:
        ConfigurationError: the model is in training mode.
    """
    check_evaluating(model)
    runner = model_runner(model, None if tokenizer is None else tokenizer.vocab_size)
    on_gpu = paddle.get_device() != "cpu"
    if on_gpu and positions is None:
        positions = runner.window + LOCAL_BLOCK
    cache_bytes = sys.maxsize if positions is None else -(-positions // LOCAL_BLOCK) * runner.block_bytes(LOCAL_BLOCK)
    config = EngineConfig(
        cache_bytes=cache_bytes if cache_bytes < _SMALL_CACHE else min(cache_bytes, cache_room()),
        preallocate=on_gpu,  # a cache that grows is copied, and leaves holes in a GPU's memory
        block_size=LOCAL_BLOCK,
        feature_cache_bytes=feature_images * runner.feature_bytes,
        max_rows=WHOLE,
        chunk_size=WHOLE,
        vision_layers=WHOLE,
        step_budget=math.inf,
    )
    return Engine(runner, tokenizer if has_text else None, config)


def grammar_compiler(model: QWenCausalLM, tokenizer: QWenVLTokenizer) -> GrammarCompiler:
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


def _last_positions(hidden: paddle.Tensor, rows: Sequence[RowInput]) -> paddle.Tensor:
    """``[sum of the rows' logits, hidden]``: so many last real positions of each row."""
    longest = hidden.shape[1]
    if longest == 1 and all(row.logits for row in rows):
        return hidden.squeeze(1)
    ends = [number * longest + len(row.ids) for number, row in enumerate(rows)]
    index = np.concatenate([np.arange(end - row.logits, end) for end, row in zip(ends, rows)])
    return paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), paddle.to_tensor(index))
