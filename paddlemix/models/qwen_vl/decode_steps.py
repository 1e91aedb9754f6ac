"""Passes over few new positions of any number of rows: their buffers, captured graphs and runs.

In a run rows go on by themselves: every step chooses their tokens on the device and feeds them to the next one. Nothing
of a step comes from the host and nothing waits for it: token, position, cache position, length and the number that is
drawn with are tensors that the step itself advances. So it can be captured as a CUDA graph, and the host may launch the
next step before it has looked at the last one's tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import paddle

from ...engine.device_choice import DeviceChoice, choose_tokens
from ...engine.protocols import RowChoice, RowInput
from ...utils.cuda_graph import captured
from ...utils.paddle_internals import pinned_copy
from .configuration import QWenVLConfig
from .decode import BoundDecoder, Buffer, DecodeInputs
from .kv_cache import PagedKVCache

STOP_IDS = 8
"""Ids of a row that the device knows to stop at; the host looks for others, and a row with more goes on until then."""

Step = Callable[[], paddle.Tensor]


class DecodeRun:
    """So many rows on one cache. One run at a time: :meth:`start` ends the one before.

    Args:
        decoder: of the model.
        cache: holds the keys and values of the rows.
        inputs: of one new position for each row.
        vocab_size: ids from here on are never chosen.
        steps: most steps of a run.
    """

    def __init__(
        self, decoder: BoundDecoder, cache: PagedKVCache, inputs: DecodeInputs, vocab_size: int, steps: int
    ) -> None:
        """Allocate the state."""
        rows = inputs.ids.shape[0]
        self._decoder, self._cache, self._inputs, self._vocab_size = decoder, cache, inputs, vocab_size
        self._temperature, self._top_p, self._greedy = (Buffer([rows, 1], "float32") for _ in range(3))
        self._uniforms = Buffer([rows, steps], "float32")
        self._stop_ids = Buffer([rows, STOP_IDS], "int64")
        self._going = Buffer([rows], "int32")  # 0 in rows that have stopped, by which all others advance
        self._count = Buffer([1], "int64")
        self._choice = DeviceChoice(self._temperature.tensor, self._top_p.tensor, self._greedy.tensor)
        self._one = paddle.ones([1], dtype="int64")
        self._steps: dict[bool, Step] = {}
        self._step: Step = self._advance
        self._launched: deque[_HostCopy] = deque()

    def start(self, rows: Sequence[RowInput], choices: Sequence[RowChoice]) -> None:
        """Begin with these rows, each with its last id as the new one. What was launched before is forgotten."""
        self._launched.clear()
        self._inputs.load(rows)
        for index, choice in enumerate(choices):
            greedy = not choice.temperature
            self._greedy.host[index] = greedy
            self._temperature.host[index] = 1.0 if greedy else choice.temperature
            self._top_p.host[index] = choice.top_p
            self._uniforms.host[index, : len(choice.uniforms)] = choice.uniforms
            self._stop_ids.host[index] = [*choice.stop_ids, *[-1] * STOP_IDS][:STOP_IDS]
        self._going.host[:] = 1
        self._count.host[0] = 0
        self._send()
        sampled = any(choice.temperature for choice in choices)
        if sampled not in self._steps:
            work = self._advance_sampled if sampled else self._advance
            self._steps[sampled] = captured(work, self._send)
        self._step = self._steps[sampled]

    def launch(self) -> None:
        """Let the device compute another step."""
        self._launched.append(_HostCopy(self._step()))

    @property
    def launched(self) -> int:
        """Steps that were launched and not fetched."""
        return len(self._launched)

    def fetch(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 ``[rows]`` and their log probabilities float64 ``[rows]`` of the oldest step launched.

        A log probability is NaN where the logits were no numbers.
        """
        values = self._launched.popleft().values()
        return values[:, 0].astype(np.int64), values[:, 1]

    def _send(self) -> None:
        self._inputs.send()
        state = (self._temperature, self._top_p, self._greedy, self._uniforms, self._stop_ids, self._going, self._count)
        for buffer in state:
            buffer.send()

    def _advance(self) -> paddle.Tensor:
        return self._chosen(None, None)

    def _advance_sampled(self) -> paddle.Tensor:
        uniforms = paddle.index_select(self._uniforms.tensor, self._count.tensor, axis=1)
        return self._chosen(self._choice, uniforms)

    def _chosen(self, choice: DeviceChoice | None, uniforms: paddle.Tensor | None) -> paddle.Tensor:
        """Token and log probability of each row, float64 ``[rows, 2]``; the state is that of the next step."""
        inputs = self._inputs
        logits = self._decoder.logits(inputs, self._cache)
        tokens, log_probs = choose_tokens(logits[:, : self._vocab_size], choice, uniforms)
        paddle.assign(tokens, output=inputs.ids)
        going = paddle.logical_not(paddle.equal(tokens, self._stop_ids.tensor).any(axis=1))
        self._going.tensor.multiply_(going.astype("int32"))
        for tensor in inputs.advancing:
            tensor.add_(self._going.tensor)
        self._count.tensor.add_(self._one)
        return paddle.concat([tokens.astype("float64"), log_probs.astype("float64")], axis=1)


class _HostCopy:
    """A small result on its way to the host, which the device does not wait for."""

    def __init__(self, result: paddle.Tensor) -> None:
        self._event = None
        if not result.place.is_cpu_place():
            result = pinned_copy(result)
            self._event = paddle.device.Event()
            self._event.record()
        self._result = result

    def values(self) -> np.ndarray:
        if self._event is not None:
            self._event.synchronize()
        return self._result.numpy()


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
