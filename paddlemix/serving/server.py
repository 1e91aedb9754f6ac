"""What all endpoints share: the model as they see it, the engine, the queue, and the way of a request through them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..engine.request import Grammar
from ..models.qwen_vl.chat_template import ChatWindow
from .admission import Admission
from .answers import AnswerReader, Delta
from .engine_client import EngineClient, EngineHandle, Generation
from .errors import APIError, from_error, output_error
from .metrics import Metrics
from .prompts import PromptBuilder
from .sampling import SamplingDefaults
from .settings import ServerSettings
from .sse import DONE, ClientGoneError, EventStream, event

if TYPE_CHECKING:
    from ..models.qwen_vl.processing import QwenVLProcessor

logger = logging.getLogger(__name__)

POOL_THREADS = 2
Result = TypeVar("Result")


def accept_grammar(grammar: Grammar) -> None:
    """Leave it to the engine to refuse a grammar."""


@dataclass(frozen=True)
class ServedModel:
    """A model as the server sees it.

    Attributes:
        processor: tokenizer, images, chat format.
        window: positions of prompt and answer.
        sampling: what holds where a request says nothing.
        check_grammar: raises ConfigurationError for one that cannot be followed; runs off the event loop.
        chat_window: how much of a conversation is kept where a request lets it be shortened.
    """

    processor: QwenVLProcessor
    window: int
    sampling: SamplingDefaults
    check_grammar: Callable[[Grammar], None] = accept_grammar
    chat_window: ChatWindow = ChatWindow()


class Server:
    """The state of a running server; made on its event loop."""

    def __init__(self, settings: ServerSettings, model: ServedModel, engine: EngineHandle) -> None:
        self.settings = settings
        self.model = model
        self.prompts = PromptBuilder(model.processor, settings, model.window, model.chat_window)
        self.client = EngineClient(engine, asyncio.get_running_loop())
        self.admission = Admission(settings.limits.max_queue)
        self.metrics = Metrics(
            settings.model_name, engine.stats, lambda: self.admission.taken, lambda: self.client.aborted
        )
        self.created = int(time.time())
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="serving")

    async def in_pool(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """The result of slow work, done in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    @staticmethod
    def unique_id(prefix: str) -> str:
        """An id of an answer, as no client chose it."""
        return f"{prefix}-{secrets.token_hex(12)}"

    def close(self) -> None:
        """Let the pool's threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check_model(self, name: str | None) -> None:
        """Raise APIError for the name of another model; where it may be absent, that means this one."""
        if name is not None and name != self.settings.model_name:
            raise APIError(
                404,
                "model: there is no model of that name here; GET /v1/models has the one there is",
                param="model",
                code="model_not_found",
            )

    def check_ready(self) -> None:
        """Raise APIError while the engine loads, or where it has failed."""
        engine = self.client.engine
        if not engine.ready:
            loading = engine.alive
            message = "the model is being loaded" if loading else "the engine has failed; restart the server"
            raise APIError(503, message, code="not_ready", retry_after=5 if loading else 60)

    async def deltas(
        self, generation: Generation, readers: Sequence[AnswerReader], received: float, ping: bool = False
    ) -> AsyncIterator[list[tuple[int, Delta]]]:
        """What each step brings for the answers; with ``ping`` an empty list where there is silence.

        Raises:
            APIError: the engine could not go on.
        """
        timing = _Timing(self.metrics, received, len(readers))
        async for batch in generation.batches(self.settings.ping_seconds if ping else None):
            deltas = []
            for index, output in batch:
                error = output_error(output)
                if error is not None:
                    raise error
                delta = readers[index].push(output)
                timing.note(index, len(output.token_ids), delta.finish_reason, readers[index])
                deltas.append((index, delta))
            yield deltas


class _Timing:
    """Measures the answers to one request."""

    def __init__(self, metrics: Metrics, received: float, answers: int) -> None:
        self._metrics = metrics
        self._received = received
        self._first: list[float | None] = [None] * answers
        self._latest = [received] * answers

    def note(self, index: int, tokens: int, reason: str | None, reader: AnswerReader) -> None:
        now = time.monotonic()
        first = self._first[index]
        if tokens and first is None:
            self._first[index] = first = now
            self._metrics.time_to_first_token.observe(now - self._received)
        elif tokens:
            for _ in range(tokens):
                self._metrics.inter_token_latency.observe((now - self._latest[index]) / tokens)
        if tokens:
            self._latest[index] = now
        if reason is not None:
            self._metrics.success(reason)
            self._metrics.e2e_request_latency.observe(now - self._received)
            self._metrics.request_decode_time.observe(now - (first if first is not None else now))
            self._metrics.request_prompt_tokens.observe(reader.last.prompt_tokens)
            self._metrics.request_generation_tokens.observe(reader.last.completion_tokens)


# ---------------------------------------------------------------- the frame around an endpoint

Endpoint = Callable[[Server, Request, Callable[[], None]], Awaitable[Response]]
"""Answers a request; calls the third argument to say that the response gives the place back itself."""


def endpoint(answer: Endpoint, needs_engine: bool = True) -> Callable:
    """A route that takes a place first and turns every exception into an answer.

    Args:
        answer: the endpoint's own part.
        needs_engine: refuse while the model is loaded.
    """

    async def route(request: Request) -> Response:
        server: Server = request.app.state.server
        place = None
        kept = False

        def keep() -> None:
            nonlocal kept
            kept = True

        try:
            if needs_engine:
                server.check_ready()
            place = server.admission.take()
            request.state.place = place
            return await answer(server, request, keep)
        except ClientGoneError:
            return Response(status_code=499)  # nobody reads it
        except APIError as error:
            kept = False
            return _error_response(server, request, error)
        except Exception as error:
            kept = False
            told = from_error(error)
            if told.status >= 500:
                logger.exception("request %s failed", request.state.request_id)
            return _error_response(server, request, told)
        finally:
            if place is not None and not kept:
                place.release()

    return route


def _error_response(server: Server, request: Request, error: APIError) -> Response:
    server.metrics.rejected(error.status)
    body = error.body(request.url.path, request.state.request_id)
    return JSONResponse(body, error.status, headers=error.headers)


def openai_failure(error: APIError) -> bytes:
    """How a stream of OpenAI's protocol ends that cannot go on."""
    return event(error.openai()) + DONE


def stream_response(
    server: Server,
    request: Request,
    keep: Callable[[], None],
    events: AsyncGenerator[bytes, None],
    failure: Callable[[APIError], bytes],
) -> Response:
    """A stream that gives the request's place back when it is over; ``failure``: its last event after an error."""
    settings = server.settings
    guarded = _ending_with_failure(events, failure, request.state.request_id)
    response = EventStream(guarded, request.state.place.release, settings.limits.send_seconds, settings.ping_seconds)
    keep()
    return response


async def _ending_with_failure(
    events: AsyncGenerator[bytes, None], failure: Callable[[APIError], bytes], request_id: str
) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in events:
            yield piece
    except APIError as error:
        yield failure(error)
    except Exception as error:
        logger.exception("stream %s failed", request_id)
        yield failure(from_error(error))
    finally:
        await events.aclose()


def deadline(request: Request, server: Server) -> float:
    """The time at which the engine ends a request."""
    return request.state.received + server.settings.limits.request_seconds
