"""Keys and values of the positions that the language model has already seen."""

from __future__ import annotations

import math
import sys
from typing import Any

import paddle

from ...errors import ConfigurationError
from ...quantization.memory import available_memory
from ...utils.device import free_gpu_memory
from .configuration import QWenVLConfig

# Positions by which a full cache grows. Copying it then costs about one decode step in this many.
CACHE_BLOCK = 256


def ntk_alpha(length: int, config: QWenVLConfig) -> float:
    """The factor by which dynamic NTK scaling stretches the rotary base for a prompt of ``length`` positions.

    1 up to ``seq_length``, then 3, 7, 15 … with each doubling (``2 ** (ceil(log2(length / seq_length)) + 1) - 1``). The
    original decides it once, at the prompt, and keeps it while it generates.
    """
    if not config.use_dynamic_ntk or length <= config.seq_length:
        return 1.0
    return float(2 ** (math.ceil(math.log2(length / config.seq_length)) + 1) - 1)


def ntk_alphas(config: QWenVLConfig) -> tuple[float, ...]:
    """All factors that prompts within the model's window can have, the smallest first."""
    lengths = [1]
    while config.seq_length * 2 ** (len(lengths) - 1) < config.max_position_embeddings:
        lengths.append(config.seq_length * 2 ** (len(lengths) - 1) + 1)
    return tuple(sorted({ntk_alpha(length, config) for length in lengths}))


def cache_dtype(config: QWenVLConfig, activations: str) -> str:
    """The dtype of keys and values in a model whose activations are ``activations``.

    Raises:
        ConfigurationError: ``kv_cache_dtype`` asks for another one on a GPU.
    """
    dtype = config.kv_cache_dtype or activations
    if dtype != activations and paddle.get_device() != "cpu":
        raise ConfigurationError(f"kv_cache_dtype: on a GPU it is the model's, {activations}; got {dtype!r}")
    return dtype


class KVCache:
    """Preallocated cache, written in place.

    Each layer holds one tensor for keys (after the rotation) and one for values, both ``[batch, heads, capacity,
    head_dim]``. All rows have the same ``length``: shorter prompts are padded on the left, and the padding is masked,
    as in the original. The NTK factor lives here and not in the model, so that conversations cannot disturb each
    other.

    Args:
        config: the model's configuration.
        batch_size: number of rows.
        capacity: positions to allocate at once; the cache grows by itself when they are used up.
        prompt_length: length of the whole prompt (padding included), which fixes the NTK factor. A prompt that is fed
            in parts needs it in advance; for one that is fed whole, it is the length of the first call.
        dtype: of the stored keys and values.
        heads: of this process; all by default.
    """

    def __init__(
        self,
        config: QWenVLConfig,
        batch_size: int,
        capacity: int,
        prompt_length: int,
        dtype: str | paddle.dtype = "float32",
        heads: int | None = None,
    ) -> None:
        """Allocate ``capacity`` positions.

        Raises:
            ConfigurationError: a size below 1.
        """
        if batch_size < 1 or capacity < 1 or prompt_length < 1:
            raise ConfigurationError(
                "KVCache: batch_size, capacity and prompt_length must be positive, "
                f"got {batch_size}, {capacity}, {prompt_length}"
            )
        self.ntk_alpha = ntk_alpha(prompt_length, config)
        self.length = 0
        shape = [batch_size, heads or config.num_attention_heads, capacity, config.kv_channels]
        self.keys = [_zeros(shape, dtype) for _ in range(config.num_hidden_layers)]
        self.values = [_zeros(shape, dtype) for _ in range(config.num_hidden_layers)]

    @property
    def batch_size(self) -> int:
        """Rows of the cache."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """Positions that are allocated."""
        return self.keys[0].shape[2]

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions in all, in steps of ``CACHE_BLOCK``."""
        if length <= self.capacity:
            return
        missing = -(-(length - self.capacity) // CACHE_BLOCK) * CACHE_BLOCK
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                shape = [tensor.shape[0], tensor.shape[1], missing, tensor.shape[3]]
                tensors[layer] = paddle.concat([tensor, paddle.zeros(shape, dtype=tensor.dtype)], axis=2)

    def advance(self, count: int) -> None:
        """Count ``count`` more positions as held, once all layers have written theirs."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget all positions from ``length`` on, so that another continuation can be fed."""
        if not 0 <= length <= self.length:
            raise ConfigurationError(f"KVCache.truncate: expected a length from 0 to {self.length}, got {length}")
        self.length = length

    def select_rows(self, rows: paddle.Tensor) -> None:
        """Keep the given rows, in the given order (int64 ``[new_batch]``; a row may be repeated)."""
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = paddle.index_select(tensor, rows, axis=0)


class PagedKVCache:
    """Keys and values of all rows in blocks that any row may hold; the rows' block tables say which.

    Attributes:
        keys, values: for each layer ``[blocks, heads, block_size, head_dim]``, written in place.

    Args:
        config: the model's configuration.
        blocks: number of blocks.
        block_size: positions of a block. From 32 on attention over blocks has the very numbers of a contiguous cache.
        dtype: of the stored keys and values.
        heads: of this process; all by default.
    """

    def __init__(
        self,
        config: QWenVLConfig,
        blocks: int,
        block_size: int,
        dtype: str | paddle.dtype,
        heads: int | None = None,
    ) -> None:
        """Allocate all blocks, whose memory is not touched before they are written."""
        shape = [blocks, heads or config.num_attention_heads, block_size, config.kv_channels]
        self.block_size = block_size
        self.keys = [_uninitialized(shape, dtype) for _ in range(config.num_hidden_layers)]
        self.values = [_uninitialized(shape, dtype) for _ in range(config.num_hidden_layers)]

    def grow(self, blocks: int) -> None:
        """Have so many blocks from now on; those there were keep their numbers and contents."""
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                grown = _uninitialized([blocks, *tensor.shape[1:]], tensor.dtype)
                grown[: tensor.shape[0]] = tensor
                tensors[layer] = grown


def _zeros(shape: list[int], dtype: Any) -> paddle.Tensor:
    return paddle.zeros(shape, dtype=dtype)


def _uninitialized(shape: list[int], dtype: Any) -> paddle.Tensor:
    return paddle.empty(shape, dtype=dtype)


def cache_room() -> int:
    """Bytes that a new cache may take: four fifths of the memory that is free, where the system tells."""
    free = available_memory() if paddle.get_device() == "cpu" else free_gpu_memory()
    return sys.maxsize if free is None else free * 4 // 5


def position_bytes(config: QWenVLConfig, dtype: str, heads: int | None = None) -> int:
    """Bytes that one position takes in a cache of ``dtype``, over all layers; ``heads``: of this process."""
    itemsize = {"float32": 4, "float16": 2, "bfloat16": 2}[dtype]
    return 2 * config.num_hidden_layers * (heads or config.num_attention_heads) * config.kv_channels * itemsize


#: what an answer needs at least: an image and so many ids
_LEAST_TEXT = 256


def answer_bytes(config: QWenVLConfig, activations: str, cache: str) -> int:
    """Bytes that a short answer about one image takes beside the weights: cache, activations and logits.

    Args:
        config: the model's.
        activations: their dtype.
        cache: dtype of keys and values.
    """
    itemsize = 4 if activations == "float32" else 2
    visual, hidden = config.visual, config.hidden_size
    positions = visual.n_queries + _LEAST_TEXT
    patches = (visual.image_size // visual.patch_size) ** 2
    # Residual, normalized, projection, attended and output; gate, up and their product.
    decoder = positions * (7 * hidden + 3 * config.intermediate_size // 2)
    encoder = patches * (7 * visual.width + 2 * int(visual.mlp_ratio * visual.width))
    logits = 4 * config.vocab_size
    return positions * position_bytes(config, cache) + itemsize * max(decoder, encoder) + logits
