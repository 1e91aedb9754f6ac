"""An engine without a model: it answers with a text of the test's, a token in a step, by the rules of the real one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from paddlemix.engine.detokenizer import IncrementalDecoder
from paddlemix.engine.request import EngineStats, FinishReason, Output, Request, TokenLogprob
from paddlemix.errors import ConfigurationError, EngineError

WINDOW = 2048


@dataclass
class _Row:
    request: Request
    ids: list[int]
    decoder: IncrementalDecoder
    n: int = 0


@dataclass
class FakeEngine:
    """Answers every request with ``answer``, or what ``answers`` has for one of its images.

    Attributes:
        step_seconds: that a step takes.
        paused: no step does anything.
        fail: the next step fails its rows.
        refuse: requests are refused with this message.
    """

    tokenizer: object
    answer: str = "A red bus."
    answers: dict[bytes, str] = field(default_factory=dict)
    step_seconds: float = 0.0
    paused: bool = False
    fail: bool = False
    refuse: str | None = None
    seen: list[Request] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    rows: dict[str, _Row] = field(default_factory=dict)
    steps: int = 0
    generated: int = 0
    finished: dict[str, int] = field(default_factory=dict)

    def add(self, request: Request) -> None:
        if self.refuse is not None:
            raise ConfigurationError(self.refuse)
        self.seen.append(request)
        text = self.answer
        for image in request.images:
            text = self.answers.get(image.key, text)
        ids = self.tokenizer.encode(text, allowed_special=self.tokenizer.GROUNDING_ST) + [self.tokenizer.im_end_id]
        decoder = IncrementalDecoder(self.tokenizer, stop_strings=request.sampling.stop_strings)
        self.rows[request.id] = _Row(request, ids, decoder)

    def abort(self, request_id: str) -> Output | None:
        row = self.rows.pop(request_id, None)
        if row is None:
            return None
        self.aborted.append(request_id)
        return self._output(row, (), "", FinishReason.ABORT)

    def has_work(self) -> bool:
        return bool(self.rows)

    def step(self) -> list[Output]:
        if self.paused:
            time.sleep(0.002)
            return self._overdue()
        time.sleep(self.step_seconds)
        self.steps += 1
        if self.fail:
            self.fail = False
            rows, self.rows = list(self.rows.values()), {}
            error = EngineError("secret detail of a failed step")
            return [Output(row.request.id, finish_reason=FinishReason.ERROR, error=error) for row in rows]
        return self._overdue() + [self._advance(row) for row in list(self.rows.values())]

    def stats(self) -> EngineStats:
        running = len(self.rows)
        return EngineStats(
            running=running, blocks_free=100 - running, blocks_owned=running, steps=self.steps,
            generation_tokens=self.generated, finished=dict(self.finished),
        )  # fmt: skip

    def _overdue(self) -> list[Output]:
        now = time.monotonic()
        rows = [row for row in self.rows.values() if row.request.deadline is not None and row.request.deadline < now]
        for row in rows:
            del self.rows[row.request.id]
        return [self._output(row, (), "", FinishReason.DEADLINE) for row in rows]

    def _advance(self, row: _Row) -> Output:
        token = row.ids[row.n]
        row.n += 1
        self.generated += 1
        sampling = row.request.sampling
        text, reason = "", None
        if token in sampling.stop_token_ids or row.n == len(row.ids):
            reason = FinishReason.STOP
        else:
            text = row.decoder.push(token)
            if row.decoder.stopped_by is not None:
                reason = FinishReason.STOP
            elif sampling.max_tokens is not None and row.n >= sampling.max_tokens:
                reason = FinishReason.LENGTH
        if reason is not None:
            text += row.decoder.finish() if row.decoder.stopped_by is None else ""
            del self.rows[row.request.id]
            self.finished[reason.value] = self.finished.get(reason.value, 0) + 1
        return self._output(row, (token,), text, reason)

    def _output(self, row: _Row, ids: tuple[int, ...], text: str, reason: FinishReason | None) -> Output:
        count = row.request.sampling.logprobs
        logprobs = ()
        if count is not None:
            top = tuple((token, -0.5 - token % 7) for token in range(count))
            logprobs = tuple(TokenLogprob(token, -0.25, top) for token in ids)
        return Output(
            row.request.id, ids, text, logprobs, len(row.request.prompt_ids), 4, row.n, reason,
            row.decoder.stopped_by,
        )  # fmt: skip
