"""Questions through the engine of this process: many at once, images and prefixes shared."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...engine.engine import Engine, EngineConfig
from ...engine.request import FinishReason, LogitsHook, Output, Request, SamplingParams
from ...engine.stopping import answer_end_ids
from ...errors import EvaluationError, PaddleMixError
from ...inference import LoadedModel, load_model
from ...media.policy import ImagePolicy
from ...options import ModelOptions
from ...utils.dependencies import require
from ..benchmarks import Generation
from ..records import Answer, Question
from ..settings import files_digest
from .base import AHEAD, Failure, Rates
from .choice_hooks import forced_choice, single_tokens
from .prompting import PreparedQuestion, Prompting

_DIGITS = 4


def engine_config(device: str, max_rows: int | None = None, cache_bytes: int | None = None) -> EngineConfig:
    """Sizes of an engine that nobody waits at: whole prompts and images at once, all rows filled before each step.

    Args:
        device: ``cpu`` or ``gpu:N``, which decides what is not given.
        max_rows: answers computed at once.
        cache_bytes: for keys and values.
    """
    rows, cache = (8, 1 << 30) if device == "cpu" else (32, 16 << 30)
    return EngineConfig(
        cache_bytes=cache_bytes or cache,
        feature_cache_bytes=256 << 20,
        max_rows=max_rows or rows,
        chunk_size=512,
        vision_layers=1 << 10,
        step_budget=1e9,
    )


class EngineBackend:
    """A model and its engine.

    Args:
        options: which model, and how.
        config: sizes of the engine.
        max_pixels: of an image in memory; None: the usual limit.
    """

    def __init__(self, options: ModelOptions, config: EngineConfig, max_pixels: int | None = None) -> None:
        from ...models.qwen_vl.runner import model_runner

        loaded = load_model(options)
        tokenizer = loaded.processor.tokenizer
        runner = model_runner(loaded.model, tokenizer.vocab_size)
        self.engine = Engine(runner, tokenizer, config)
        self.processor = loaded.processor
        self.settings = model_settings(options, loaded, runner.identity.decode().strip())
        self.name = str(options.model)
        paddle = require("paddle", "running a model")
        self._no_grad = paddle.no_grad
        # On a CPU the engine has all cores, and a thread beside it would only interrupt its calls.
        self._new_pool = _Inline if paddle.device.get_device() == "cpu" else _one_thread
        self._rows = config.max_rows
        self._policy = ImagePolicy() if max_pixels is None else ImagePolicy(max_pixels=max_pixels)

    def answers(self, questions: Iterable[Question], generation: Generation) -> Iterator[Answer | Failure]:
        """See :class:`.base.Backend`."""
        prompting = Prompting(self.processor, generation, self._policy)
        run = _Run(self.engine, prompting, generation, self._end_ids(generation))
        source = iter(questions)
        exhausted = False
        with self._new_pool() as pool:
            try:
                while True:
                    while not exhausted and len(run.order) < AHEAD and len(run.prepared) < 2 * self._rows:
                        question = next(source, None)
                        if question is None:
                            exhausted = True
                            break
                        run.take(question, pool.submit(prompting.prepare, question))
                    run.submit(2 * self._rows)
                    if self.engine.has_work():
                        with self._no_grad():
                            run.step()
                    while run.order and run.order[0].result is not None:
                        yield run.order.popleft().result  # type: ignore[misc]
                    if exhausted and not run.order:
                        return
            finally:
                run.abort()
                pool.shutdown(cancel_futures=True)

    def rates(self, questions: Sequence[Question], generation: Generation) -> Rates:
        """See :class:`.base.Backend`."""
        one = replace(generation, min_new_tokens=0, max_new_tokens=1) if generation.max_new_tokens else generation
        first = [self._timed(question, one) for question in questions]  # the very first pays for what is set up once
        again = self._timed(questions[-1], one)
        token = 0.0
        if generation.max_new_tokens:
            token = (
                max(0.0, self._timed(questions[-1], replace(generation, min_new_tokens=9, max_new_tokens=9)) - again)
                / 8
            )
        return Rates(first[-1], again, token)

    def close(self) -> None:
        """Nothing is held beyond memory."""

    def _timed(self, question: Question, generation: Generation) -> float:
        began = time.perf_counter()
        (result,) = self.answers([question], generation)
        if isinstance(result, Failure):
            raise EvaluationError(f"question {question.id}: {result.reason}")
        return time.perf_counter() - began

    def _end_ids(self, generation: Generation) -> tuple[int, ...]:
        tokenizer = self.processor.tokenizer
        return (tokenizer.eod_id,) if generation.form == "raw" else answer_end_ids((), tokenizer)


def model_settings(options: ModelOptions, loaded: LoadedModel, computed: str) -> Mapping[str, Any]:
    """What of a model decides its answers.

    Args:
        options: which model.
        loaded: the same.
        computed: its class, and the dtypes of activations, keys and values.
    """
    image_processor = loaded.processor.image_processor
    settings = {
        "model": files_digest(loaded.directory),
        "computed": computed,
        "quantization": options.quantization,
        "vision_quantization": options.vision_quantization,
        "exif_transpose": image_processor.exif_transpose,
        "background": image_processor.background,
    }
    if options.adapter is not None:
        settings["adapter"] = files_digest(Path(options.adapter))
    return settings


class _Inline(Executor):
    """Does what is submitted at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except PaddleMixError as error:
            future.set_exception(error)
        return future


def _one_thread() -> Executor:
    return ThreadPoolExecutor(1, "questions")


@dataclass
class _Asked:
    """A question on its way.

    Attributes:
        missing: requests to the engine that have not ended.
        losses: of the choices, as far as they are known.
    """

    question: Question
    future: Future[PreparedQuestion]
    requests: list[str] = field(default_factory=list)
    missing: int = 0
    ids: list[int] = field(default_factory=list)
    logprob: float | None = None
    losses: list[float] = field(default_factory=list)
    result: Answer | Failure | None = None


class _Run:
    """The questions that are under way.

    Attributes:
        order: all that were taken and not given out, the oldest first.
        prepared: those of them that the engine does not have yet.
    """

    def __init__(self, engine: Engine, prompting: Prompting, generation: Generation, end_ids: tuple[int, ...]) -> None:
        self.order: deque[_Asked] = deque()
        self.prepared: deque[_Asked] = deque()
        self._engine = engine
        self._prompting = prompting
        self._generation = generation
        self._end_ids = end_ids
        self._asked: dict[str, _Asked] = {}
        self._count = 0

    def take(self, question: Question, future: Future[PreparedQuestion]) -> None:
        """A question that is being prepared."""
        asked = _Asked(question, future)
        self.order.append(asked)
        self.prepared.append(asked)

    def submit(self, most: int) -> None:
        """Hand prepared questions to the engine while it has fewer than ``most`` requests; wait where it has none."""
        while self.prepared and len(self._asked) < most:
            if self._asked and not self.prepared[0].future.done():
                return
            asked = self.prepared.popleft()
            try:
                for request in self._requests(asked, asked.future.result()):
                    self._engine.add(request)
                    self._asked[request.id] = asked
                    asked.missing += 1
            except PaddleMixError as error:
                asked.result = Failure(asked.question.id, str(error))

    def step(self) -> None:
        """One step of the engine.

        Raises:
            EvaluationError: the engine does not recover.
        """
        for output in self._engine.step():
            asked = self._asked[output.request_id]
            asked.ids += output.token_ids
            if output.logprobs:
                asked.logprob = (asked.logprob or 0.0) + sum(token.logprob for token in output.logprobs)
            if output.finish_reason is not None:
                del self._asked[output.request_id]
                self._end(asked, output)
        if self._engine.stats().failures > 3:
            raise EvaluationError("engine: its steps fail one after the other; the log has why")

    def abort(self) -> None:
        """End what the engine has."""
        for request_id in list(self._asked):
            self._engine.abort(request_id)
        self._asked.clear()

    def _requests(self, asked: _Asked, prepared: PreparedQuestion) -> Iterator[Request]:
        if not prepared.choices:
            generation = self._generation
            yield self._request(
                prepared,
                SamplingParams(
                    max_tokens=max(1, generation.max_new_tokens),
                    min_tokens=generation.min_new_tokens,
                    stop_token_ids=self._end_ids,
                    logprobs=0 if generation.needs_logprob else None,
                ),
            )
            return
        asked.losses = [0.0] * len(prepared.choices)
        if all(len(ids) == 1 for ids in prepared.choices):
            # the logits behind the prompt say it for all of them
            yield self._request(prepared, SamplingParams(max_tokens=1), single_tokens(prepared.choices, asked.losses))
            return
        for index, ids in enumerate(prepared.choices):
            yield self._request(prepared, SamplingParams(max_tokens=len(ids)), forced_choice(ids, index, asked.losses))

    def _request(self, prepared: PreparedQuestion, sampling: SamplingParams, hook: LogitsHook | None = None) -> Request:
        self._count += 1
        return Request(f"question-{self._count}", prepared.ids, prepared.images, sampling, logits_hook=hook)

    def _end(self, asked: _Asked, output: Output) -> None:
        asked.missing -= 1
        if output.finish_reason is FinishReason.ERROR:
            asked.result = Failure(asked.question.id, str(output.error))
        if asked.missing or asked.result is not None:
            return
        if asked.losses:
            losses = tuple(round(loss, _DIGITS) for loss in asked.losses)
            asked.result = Answer(asked.question.id, losses=losses, finish_reason="choice")
            return
        ids = [token for token in asked.ids if token not in self._end_ids]
        reason = "stop" if output.finish_reason is FinishReason.STOP else "length"
        logprob = None if asked.logprob is None else round(asked.logprob, _DIGITS)
        asked.result = Answer(asked.question.id, self._prompting.text(ids), len(ids), logprob, finish_reason=reason)
