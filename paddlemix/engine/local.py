"""The engine for callers in its own process, each of which computes what it waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from ..errors import EngineError, PaddleMixError
from .engine import Engine
from .request import Output, Request


class LocalEngine:
    """An engine that is stepped by whoever asks for the next output of a request.

    One thread at a time may call it; only ``abandon`` may be called at any moment, as finalizers are.

    Args:
        engine: not used by anybody else.
        context: entered around each step; ``paddle.no_grad``, since gradients are switched for each thread on its own.
    """

    def __init__(self, engine: Engine, context: Callable[[], AbstractContextManager] = nullcontext) -> None:
        self._engine = engine
        self._context = context
        self._ready: dict[str, deque[Output]] = {}
        self._abandoned: deque[str] = deque()
        self._added = 0

    @property
    def engine(self) -> Engine:
        """The engine itself, for its numbers."""
        return self._engine

    def new_id(self) -> str:
        """An id for the next request."""
        self._added += 1
        return str(self._added)

    def add(self, request: Request) -> None:
        """Take a request; the calls of ``next`` bring its outputs. Errors are those of :meth:`.engine.Engine.add`."""
        self._drop_abandoned()
        self._engine.add(request)
        self._ready[request.id] = deque()

    def next(self, request_id: str) -> Output:
        """The next output of a request, computed if need be; the last one has a finish reason.

        Raises:
            PaddleMixError: what ended the request.
            Exception: what the model raised.
        """
        ready = self._ready[request_id]
        if not ready:
            self._drop_abandoned()
            with self._context():
                while not ready:
                    for output in self._engine.step():
                        if output.request_id in self._ready:
                            self._ready[output.request_id].append(output)
        output = ready.popleft()
        if output.finish_reason is not None:
            del self._ready[request_id]
        if output.error is not None:
            raise raised_error(output.error)
        return output

    def abandon(self, request_id: str) -> None:
        """Nobody asks for this request any more: it ends before anything else is computed."""
        self._abandoned.append(request_id)

    def _drop_abandoned(self) -> None:
        while self._abandoned:
            request_id = self._abandoned.popleft()
            self._ready.pop(request_id, None)
            self._engine.abort(request_id)


@dataclass
class Answer:
    """What the outputs of a request add up to.

    Attributes:
        tokens: all new ids, the stop id included.
        log_probs: of these, where the request asks for them.
        text: what they mean.
        finish_reason: ``"stop"`` or ``"length"``; ``None`` while it goes on.
        cached_tokens: ids of the prompt that a cached prefix spared.
    """

    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    cached_tokens: int = 0

    def extend(self, output: Output) -> None:
        """Take what a step brought.

        Raises:
            PaddleMixError: what ended the request.
            Exception: what the model raised.
        """
        if output.error is not None:
            raise raised_error(output.error)
        self.tokens += output.token_ids
        self.log_probs += [token.logprob for token in output.logprobs]
        self.text += output.text
        self.cached_tokens = output.cached_tokens
        if output.finish_reason is not None:
            self.finish_reason = output.finish_reason.value


def answer_requests(
    engine: Engine,
    requests: Iterable[Request],
    at_once: int,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[tuple[str, Answer]]:
    """Answer any number of requests; each that ends makes room for the next one.

    Args:
        engine: with nothing else to do.
        requests: asked for the next one when there is room for it.
        at_once: most requests that the engine has.
        context: as for :class:`LocalEngine`.

    Yields:
        The id of a request and its answer, as they end.

    Raises:
        PaddleMixError: what ended one of them.
        Exception: what the model raised.
    """
    waiting = iter(requests)
    answers: dict[str, Answer] = {}
    while True:
        while len(answers) < at_once and (request := next(waiting, None)) is not None:
            engine.add(request)
            answers[request.id] = Answer()
        if not answers:
            return
        with context():
            outputs = engine.step()
        for output in outputs:
            answers[output.request_id].extend(output)
            if output.finish_reason is not None:
                yield output.request_id, answers.pop(output.request_id)


def raised_error(error: PaddleMixError) -> BaseException:
    """What to raise in the process where it happened: the model's own failure rather than a word about it."""
    return error.__cause__ if isinstance(error, EngineError) and error.__cause__ is not None else error
