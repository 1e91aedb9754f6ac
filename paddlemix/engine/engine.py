"""Many requests at once on one model, step by step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, EngineError, ImageError, NumericalError, PaddleMixError, PromptError
from .admission import admitted
from .blocks import root_hash
from .cache import PagedCache
from .config import EngineConfig
from .detokenizer import IncrementalDecoder
from .prompt_lookup import propose
from .protocols import Codec, ModelRunner
from .request import EngineStats, FinishReason, Output, Request
from .run_ahead import RunAhead
from .sampler import RowSampler
from .scheduler import Scheduler
from .sequence import Sequence
from .vision import FeatureCache, ImageEncoding

if TYPE_CHECKING:
    from .grammar import GrammarCompiler

_REQUEST_ERRORS = (ImageError, NumericalError, PromptError)
"""What a request may bring on itself; all else is the engine's failure."""


class Engine:
    """Requests go in, steps bring their tokens. For one thread; :class:`.thread.EngineThread` is for many.

    Each row is what it is alone: nothing is padded, random numbers and penalties are its own, and a cached prefix is
    shared only where ids, images, position encoding and salt are the same.

    Args:
        runner: the model.
        codec: turns ids into text; without one there is none.
        config: sizes.
        grammars: for requests that have one.
    """

    def __init__(
        self,
        runner: ModelRunner,
        codec: Codec | None = None,
        config: EngineConfig | None = None,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self.config = config = EngineConfig() if config is None else config
        self.grammars = grammars
        self._runner = runner
        self._codec = codec
        self._cache = PagedCache(runner, config)
        self._features = FeatureCache(config.feature_cache_bytes, runner.feature_bytes)
        self._scheduler = Scheduler(self._cache.pool, config.block_size, config.max_rows)
        self._ahead = RunAhead(runner, config.block_size)
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._finished: Counter[str] = Counter()
        self._prompt_tokens = self._generation_tokens = self._steps = self._failures = 0
        self._vision_seconds = 0.0

    @property
    def capacity(self) -> int:
        """Positions that fit into the cache: no prompt with its answer may be longer."""
        return self._cache.most_blocks * self.config.block_size

    def add(self, request: Request) -> None:
        """Take a request; the next steps bring its outputs.

        Raises:
            ConfigurationError: an option that cannot be, or an id that is in use.
            PromptError: the prompt is empty, malformed or too long.
            MissingDependencyError: a grammar, and the package for it is not installed.
        """
        if request.id in self._sequences:
            raise ConfigurationError(f"request id: {request.id!r} is in use; ids must be unique")
        max_tokens = admitted(request, self._runner, self.capacity, has_text=self._codec is not None)
        if request.grammar is not None and self.grammars is None:
            raise ConfigurationError("grammar: this engine was made without a compiler for grammars")
        params = request.sampling
        factor = self._runner.position_factor(len(request.prompt_ids))
        decoder = None
        if self._codec is not None:
            decoder = IncrementalDecoder(self._codec, stop_strings=params.stop_strings, **vars(request.decoding))
        self._arrivals += 1
        sequence = Sequence(
            request,
            factor,
            max_tokens,
            RowSampler(params, request.prompt_ids, self._runner.vocab_size, request.logits_hook),
            decoder,
            None if request.grammar is None or self.grammars is None else self.grammars.matcher(request.grammar),
            root_hash(self._runner.identity, factor, request.salt),
            self._runner.image_tokens,
            self._arrivals,
        )
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)
        self._cache.wanted_blocks += self._scheduler.blocks_for(sequence.longest)
        self._prompt_tokens += len(request.prompt_ids)

    def abort(self, request_id: str) -> Output | None:
        """End a request at once; ``None`` where there is no such request."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        sequence.finish(FinishReason.ABORT)
        self._retire([sequence])
        return self._close(sequence)

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self._scheduler.has_work

    def step(self) -> list[Output]:
        """Decode all rows that run, then go on with a prompt; what is new for whom.

        What the model raises ends the requests that it was computing for, and no others.
        """
        self._steps += 1
        if self._cache.grow():
            self._ahead.stop()  # it has the memory that was
        touched = self._expired()
        rows = self._scheduler.rows_to_decode()
        touched += rows
        succeeded = not rows or self._guard(rows, self._decode, rows)
        self._retire(rows)
        end = time.monotonic() + self.config.step_budget
        while (sequence := self._scheduler.next_prompt()) is not None:
            touched.append(sequence)
            succeeded = self._guard([sequence], self._advance, sequence) and succeeded
            self._retire([sequence])
            if time.monotonic() >= end:
                break
        self._failures = 0 if succeeded else self._failures + 1
        return [self._close(sequence) for sequence in dict.fromkeys(touched) if sequence.has_news]

    def check(self) -> None:
        """Every block is free, cached or owned by a request that goes on.

        Raises:
            EngineError: one is not.
        """
        self._cache.pool.check(sequence.blocks for sequence in self._scheduler)
        if set(self._sequences.values()) != set(self._scheduler):
            raise EngineError("engine: its requests and those of its scheduler are not the same")

    def stats(self) -> EngineStats:
        """Numbers of this moment."""
        free, cached, owned = self._cache.pool.counts
        running = len(self._scheduler.running)
        return EngineStats(
            running=running,
            waiting=len(self._sequences) - running,
            blocks_free=free,
            blocks_cached=cached,
            blocks_owned=owned,
            prefix_queries=self._scheduler.prefix_queries,
            prefix_hits=self._scheduler.prefix_hits,
            image_queries=self._features.queries,
            image_hits=self._features.hits,
            vision_seconds=self._vision_seconds,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            preemptions=self._scheduler.preemptions,
            finished=dict(self._finished),
            steps=self._steps,
            failures=self._failures,
        )

    def _expired(self) -> list[Sequence]:
        """End those whose time is up."""
        now = time.monotonic()
        late = [s for s in self._scheduler if s.request.deadline is not None and s.request.deadline <= now]
        for sequence in late:
            sequence.finish(FinishReason.DEADLINE)
        self._retire(late)
        return late

    def _guard(self, sequences: list[Sequence], work: Callable[..., None], *arguments: object) -> bool:
        """Do ``work``; whether the engine is well. What it raises ends these sequences."""
        try:
            work(*arguments)
        except _REQUEST_ERRORS as error:
            self._fail(sequences, error)
        except Exception as cause:  # noqa: BLE001 - whatever it is, the requests of others go on
            failure = EngineError("engine: the model failed while it computed this; the log has why")
            failure.__cause__ = cause
            self._fail(sequences, failure)
            self._ahead.stop()
            self._cache.pool.forget()  # nobody knows what was written where
            return False
        return True

    def _fail(self, sequences: list[Sequence], error: PaddleMixError) -> None:
        for sequence in sequences:
            if sequence.finish_reason is None:
                sequence.finish(FinishReason.ERROR, error)

    def _decode(self, rows: list[Sequence]) -> None:
        """One pass for the next token of each row, with what prompt lookup proposes behind it."""
        chosen = self._ahead.next_tokens(rows, self._cache.memory)
        if chosen is not None:
            for sequence, token in zip(rows, chosen):
                self._guard([sequence], self._accept_chosen, sequence, *token)
            return
        proposed = [self._proposed(sequence) for sequence in rows]
        inputs = [sequence.row_input(1, 1 + len(ids), ids) for sequence, ids in zip(rows, proposed)]
        for sequence, ids, logits in zip(rows, proposed, self._runner.forward(inputs, self._cache.memory)):
            self._guard([sequence], self._accept, sequence, ids, logits)

    def _proposed(self, sequence: Sequence) -> list[int]:
        count = sequence.request.sampling.prompt_lookup_num_tokens
        if not count:
            return []
        room = len(sequence.blocks) * self.config.block_size - len(sequence.ids)
        return propose(sequence.ids, min(count, room, sequence.max_tokens - sequence.generated - 1))

    def _accept(self, sequence: Sequence, proposed: list[int], logits: Iterable) -> None:
        """Choose tokens for as long as they are those proposed: each is what it would be without proposals."""
        for position, row in enumerate(logits):
            token = sequence.accept(row)
            self._generation_tokens += 1
            matches = position < len(proposed) and token == proposed[position]
            if sequence.finish_reason is not None or not matches:
                break
        self._scheduler.computed(sequence, len(sequence.ids) - 1)

    def _accept_chosen(self, sequence: Sequence, token: int, log_prob: float) -> None:
        sequence.accept_chosen(token, log_prob)
        self._generation_tokens += 1
        self._scheduler.computed(sequence, len(sequence.ids) - 1)

    def _advance(self, sequence: Sequence) -> None:
        """Encode a part of an image, or compute a part of the prompt."""
        missing = sequence.missing_image()
        if missing is not None:
            self._encode(sequence, missing)
            return
        chunk_size = sequence.request.prefill_chunk_size or self.config.chunk_size
        end = min(sequence.computed + chunk_size, len(sequence.ids))
        last = end == len(sequence.ids)
        row = sequence.row_input(end - sequence.computed, int(last))
        (logits,) = self._runner.forward([row], self._cache.memory)
        self._scheduler.computed(sequence, end)
        if last:
            sequence.features.clear()
            self._scheduler.prompt_computed()
            sequence.accept(logits[0])
            self._generation_tokens += 1

    def _encode(self, sequence: Sequence, index: int) -> None:
        image = sequence.request.images[index]
        if sequence.encoding is None:
            features = self._features.get(image.key)
            if features is not None:
                sequence.features[index] = features
                return
            sequence.encoding = ImageEncoding(image)
        began = time.monotonic()
        features = sequence.encoding.advance(self._runner, self.config.vision_layers)
        self._vision_seconds += time.monotonic() - began
        if features is not None:
            sequence.encoding = None
            sequence.features[index] = features
            self._features.put(image.key, features)

    def _retire(self, sequences: Iterable[Sequence]) -> None:
        """Take the blocks of those that are finished."""
        for sequence in sequences:
            if sequence.finish_reason is not None:
                self._scheduler.remove(sequence)

    def _close(self, sequence: Sequence) -> Output:
        """What is new for a sequence; one that is finished is forgotten."""
        if sequence.finish_reason is not None:
            del self._sequences[sequence.request.id]
            self._cache.wanted_blocks -= self._scheduler.blocks_for(sequence.longest)
            self._finished[sequence.finish_reason.value] += 1
        return sequence.take_output()
