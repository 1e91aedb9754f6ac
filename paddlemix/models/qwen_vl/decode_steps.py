"""Passes over few new positions of any number of rows: their buffers, captured graphs and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle

from ...engine.protocols import RowChoice, RowInput
from ...utils.cuda_graph import captured
from .configuration import QWenVLConfig
from .decode import BoundDecoder
from .decode_inputs import DecodeInputs
from .decode_run import DecodeRun
from .kv_cache import PagedKVCache


class DecodeSteps:
    """What decode steps need of one model and one cache, each thing made when it is first needed.

    Args:
        config: the model's.
        decoder: of the model.
        cache: holds keys and values.
        vocab_size: ids from here on are never chosen.
    """

    def __init__(self, config: QWenVLConfig, decoder: BoundDecoder, cache: PagedKVCache, vocab_size: int) -> None:
        """Remember these."""
        self.decoder = decoder
        self._config, self._cache, self._vocab_size = config, cache, vocab_size
        self._memory = cache.keys[0]
        self._inputs: dict[tuple[int, int], DecodeInputs] = {}
        self._logits: dict[int, Callable[[], paddle.Tensor]] = {}
        self._runs: dict[tuple[int, int], DecodeRun] = {}

    def are_current(self, cache: PagedKVCache) -> bool:
        """Whether they are of this cache, the memory that it has now, and the model's layers and weights."""
        return self._cache is cache and self._memory is cache.keys[0] and self.decoder.is_current()

    def hidden(self, rows: Sequence[RowInput], count: int) -> paddle.Tensor:
        """``[rows, count, hidden]`` after the final norm."""
        inputs = self._loaded(rows, count)
        return self.decoder.hidden(self.decoder.embed(inputs.ids), inputs.metadata, self._cache)

    def logits(self, rows: Sequence[RowInput]) -> paddle.Tensor:
        """Float32 ``[rows, vocab]`` of one new position for each row, until the next call."""
        inputs = self._loaded(rows, 1)
        step = self._logits.get(len(rows))
        if step is None:
            step = captured(lambda: self.decoder.logits(inputs, self._cache), inputs.send)
            self._logits[len(rows)] = step
        return step()

    def start_run(self, rows: Sequence[RowInput], choices: Sequence[RowChoice], steps: int) -> DecodeRun:
        """Rows of one new id each, which go on for at most so many steps."""
        key = len(rows), steps
        if key not in self._runs:
            inputs = self._loaded(rows, 1)
            self._runs[key] = DecodeRun(self.decoder, self._cache, inputs, self._vocab_size, steps)
        self._runs[key].start(rows, choices)
        return self._runs[key]

    def _loaded(self, rows: Sequence[RowInput], count: int) -> DecodeInputs:
        inputs = self._inputs.get((len(rows), count))
        if inputs is None:
            inputs = DecodeInputs(self._config, len(rows), count, self._cache.block_size)
            self._inputs[len(rows), count] = inputs
        inputs.load(rows)
        return inputs
