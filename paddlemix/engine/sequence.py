"""A request on its way through the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import PaddleMixError
from .blocks import BlockKey, Tail, block_key
from .content import Content
from .detokenizer import IncrementalDecoder
from .protocols import Features, PlacedFeatures, RowChoice, RowInput
from .request import FinishReason, ImageInput, Output, Request, TokenLogprob
from .sampler import RowSampler
from .stopping import StopSequences
from .vision import ImageEncoding

if TYPE_CHECKING:
    from .grammar import GrammarMatcher


class Sequence:
    """The ids of a row, how far they are computed and where, and what is to come out next.

    A sequence waits, then holds blocks for all of its ids while these are computed in parts, and runs once they are.
    One that is preempted waits again, with the ids that it has generated: to go on is to compute them like a prompt.

    Attributes:
        ids: of prompt and answer.
        computed: how many of them the cache holds.
        blocks: of the cache, in order.
        cached_tokens: how many ids a cached prefix spared; ``None`` before the first blocks.
        finish_reason: ``None`` while it goes on.

    Args:
        request: what is wanted.
        position_factor: of the prompt; it stays, however long the sequence becomes.
        max_tokens: most tokens to generate.
        sampler, decoder, matcher: for this row alone; without a decoder there is no text, without a matcher no
            grammar.
        root: what its cached blocks depend on beside their content.
        image_tokens: positions of an image.
        arrival: a number that grows with every request.
    """

    def __init__(
        self,
        request: Request,
        position_factor: float,
        max_tokens: int,
        sampler: RowSampler,
        decoder: IncrementalDecoder | None,
        matcher: GrammarMatcher | None,
        root: bytes,
        image_tokens: int,
        arrival: int,
    ) -> None:
        self.request = request
        self.position_factor = position_factor
        self.max_tokens = max_tokens
        self.arrival = arrival
        self.ids = list(request.prompt_ids)
        self.computed = 0
        self.blocks: list[int] = []
        self.cached_tokens: int | None = None
        self.features: dict[int, Features] = {}
        self.encoding: ImageEncoding | None = None
        self.finish_reason: FinishReason | None = None
        self.error: PaddleMixError | None = None
        self._image_tokens = image_tokens
        self._sampler = sampler
        self._decoder = decoder
        self._matcher = matcher
        self._stop_ids = frozenset(request.sampling.stop_token_ids)
        self._stops = StopSequences(request.sampling.stop_sequences)
        self._keys: list[BlockKey] = []
        self._root = root
        self._new: list[TokenLogprob] = []
        self._text = ""

    @property
    def longest(self) -> int:
        """Most ids that it may have."""
        return len(self.request.prompt_ids) + self.max_tokens

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def has_news(self) -> bool:
        """Whether ``take_output`` would say anything."""
        return bool(self._new) or self.finish_reason is not None

    def keys(self, block_size: int, length: int) -> list[BlockKey]:
        """Keys of the blocks that the first ``length`` ids fill."""
        full = length // block_size
        while len(self._keys) < full:
            start = len(self._keys) * block_size
            parent = self._keys[-1].hash if self._keys else self._root
            self._keys.append(block_key(parent, self._content(start, start + block_size).to_bytes()))
        return self._keys[:full]

    def tail(self, block_size: int, start: int, end: int) -> Tail:
        """What the block that begins at ``start`` holds up to ``end``."""
        before = self.keys(block_size, start)
        return Tail(before[-1].hash if before else self._root, self._content(start, end))

    def missing_image(self) -> int | None:
        """Index of the first image that is still to be computed and not encoded."""
        for index, image in enumerate(self.request.images):
            if index not in self.features and image.start + self._image_tokens > self.computed:
                return index
        return None

    def row_input(self, count: int, logits: int, proposed: tuple[int, ...] | list[int] = ()) -> RowInput:
        """The next ``count`` ids that are not computed, and proposed ones behind them."""
        ids = np.array([*self.ids[self.computed : self.computed + count], *proposed], dtype=np.int64)
        features = tuple(
            PlacedFeatures(first - self.computed, first - image.start, end - first, self.features[index])
            for index, image, first, end in self._images_in(self.computed, self.computed + count)
        )
        return RowInput(ids, self.computed, self.blocks, self.position_factor, features, logits)

    def accept(self, logits: np.ndarray) -> int:
        """Choose the next token, and notice whether it is the last.

        Args:
            logits: float32 ``[vocab]``.

        Raises:
            NumericalError: they are not numbers.
        """
        return self._add(self._sampler.choose(logits, None if self._matcher is None else self._matcher.allowed()))

    def accept_chosen(self, token: int, log_prob: float) -> int:
        """As :meth:`accept`, where a device has chosen as ``device_choice`` says."""
        return self._add(self._sampler.accept(token, log_prob))

    def device_choice(self, steps: int) -> RowChoice | None:
        """How a device can choose the next tokens; ``None`` where the host has to look at the logits."""
        if self._matcher is not None or self.request.sampling.prompt_lookup_num_tokens:
            return None
        return self._sampler.device_choice(steps)

    def _add(self, chosen: TokenLogprob) -> int:
        token = chosen.token_id
        self.ids.append(token)
        self._new.append(chosen)
        complete = self._matcher is not None and self._matcher.push(token)
        stopped = token in self._stop_ids
        if self._decoder is not None and not stopped:
            self._text += self._decoder.push(token)
            stopped = self._decoder.stopped_by is not None
        if self._stops.push(token) or stopped or complete:
            self.finish(FinishReason.STOP)
        elif self.generated >= self.max_tokens:
            self.finish(FinishReason.LENGTH)
        return token

    def finish(self, reason: FinishReason, error: PaddleMixError | None = None) -> None:
        """Note why it ended; text that was held back comes out."""
        self.finish_reason, self.error = reason, error
        if self._decoder is not None:
            self._text += self._decoder.finish()

    def take_output(self) -> Output:
        """What is new since the last time."""
        new, self._new = tuple(self._new), []
        text, self._text = self._text, ""
        return Output(
            request_id=self.request.id,
            token_ids=tuple(token.token_id for token in new),
            text=text,
            logprobs=new if self.request.sampling.logprobs is not None else (),
            prompt_tokens=len(self.request.prompt_ids),
            cached_tokens=self.cached_tokens or 0,
            completion_tokens=self.generated,
            finish_reason=self.finish_reason,
            stop_string=None if self._decoder is None else self._decoder.stopped_by,
            error=self.error,
        )

    def _images_in(self, start: int, end: int) -> list[tuple[int, ImageInput, int, int]]:
        """Index, image, and the first and last-but-one position of every image between two positions."""
        return [
            (index, image, max(image.start, start), min(image.start + self._image_tokens, end))
            for index, image in enumerate(self.request.images)
            if image.start < end and image.start + self._image_tokens > start
        ]

    def _content(self, start: int, end: int) -> Content:
        ids = np.array(self.ids[start:end], dtype=np.int64)
        images = []
        for _, image, first, last in self._images_in(start, end):
            ids[first - start : last - start] = -1
            images.append((first - start, first - image.start, last - first, image.key))
        return Content(ids, tuple(images))
