"""``/v1/completions``: a text, or ids, that go on as they stand."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import __version__
from ..engine import request as engine
from .answers import AnswerReader, Delta, boxes, completion_logprobs, hidden_ids, usage
from .bodies import read_body
from .chat import check_grammar, prefix_salt
from .content import image_source
from .errors import bad_request
from .prompts import Prompt
from .sampling import check_answers, sampling_params, structured_grammar
from .schemas import CompletionBody
from .server import Server, deadline, openai_failure, stream_response
from .sse import DONE, event, unless_gone


@dataclass(frozen=True)
class _Job:
    """Requests for the engine, ``n`` for each prompt, and the prompts' texts where they are to be repeated."""

    requests: list[engine.Request]
    n: int
    echoes: list[str]


async def completions(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """Continue a text."""
    body = await read_body(request, CompletionBody)
    server.check_model(body.model)
    state = request.state
    answer_id = server.unique_id("cmpl")
    job = await server.in_pool(_prepare, server, body, answer_id, state.salt, deadline(request, server))
    server.metrics.request_preparation_time.observe(time.monotonic() - state.received)
    completion = _Completion(server, body, job, answer_id, state)
    if body.stream is True:
        return stream_response(server, request, keep, completion.events(), openai_failure)
    return JSONResponse(await unless_gone(request, completion.answer()))


def _prepare(server: Server, body: CompletionBody, answer_id: str, salt: bytes, end: float) -> _Job:
    limits = server.settings.limits
    n = body.n if body.n is not None else 1
    if body.best_of is not None and body.best_of != n:
        raise bad_request("best_of", "not supported beside n; remove it")
    if body.echo is True and body.logprobs is not None:
        raise bad_request("echo", "not beside logprobs: those of the prompt are not computed")
    prompts = _prompt_values(body.prompt)
    check_answers(len(prompts), n, limits)
    grammar = structured_grammar(body.structured_outputs, limits)
    if grammar is not None:
        check_grammar(server, grammar, "structured_outputs")
    sampling = sampling_params(body, server.model.sampling, logprobs=body.logprobs)
    salt = prefix_salt(salt, body.cache_salt)
    requests, echoes = [], []
    for index, value in enumerate(prompts):
        prompt = _prompt(server, body, value)
        tokenizer = server.prompts.tokenizer
        echoes.append(value if isinstance(value, str) else tokenizer.decode(prompt.ids))
        requests += [
            engine.Request(
                f"{answer_id}-{index * n + number}",
                prompt.ids,
                prompt.images,
                replace(sampling, seed_index=number),
                grammar,
                end,
                salt,
            )
            for number in range(n)
        ]
    return _Job(requests, n, echoes if body.echo is True else [""] * len(prompts))


def _prompt_values(prompt: Any) -> list[Any]:
    """The prompts of a body, each a text or a list of ids."""
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)


def _prompt(server: Server, body: CompletionBody, value: Any) -> Prompt:
    if not body.images:
        return server.prompts.text(value) if isinstance(value, str) else server.prompts.of_ids(value, "prompt")
    if not isinstance(value, str):
        raise bad_request("images", "only before a prompt that is a text")
    if len(body.images) > server.settings.limits.max_images:
        raise bad_request("images", f"more than {server.settings.limits.max_images}")
    images = [
        image_source({"image_url": url}, f"images[{index}]", server.settings) for index, url in enumerate(body.images)
    ]
    return server.prompts.raw(value, images, image_labels=body.image_labels is not False)


class _Completion:
    """One request and its answers."""

    def __init__(self, server: Server, body: CompletionBody, job: _Job, answer_id: str, state: Any) -> None:
        self._server = server
        self._body = body
        self._job = job
        self._state = state
        tokenizer = server.prompts.tokenizer
        self._readers = [AnswerReader((), hidden_ids(tokenizer)) for _ in job.requests]
        self._lengths = [len(self._echo(index)) for index in range(len(job.requests))]
        self._head = {
            "id": answer_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": server.settings.model_name,
            "system_fingerprint": f"paddlemix-{__version__}",
        }

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        async with self._server.client.generate_all(self._job.requests) as generation:
            async for _ in self._server.deltas(generation, self._readers, self._state.received):
                pass
        choices = []
        for index, reader in enumerate(self._readers):
            end = reader.end if reader.end is not None else Delta()
            choice = self._choice(index, self._echo(index) + reader.text, reader.logprobs, end.finish_reason)
            choices.append({**choice, **_places(reader)})
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes."""
        for index in range(len(self._readers)):
            if self._echo(index):
                yield self._chunk(self._choice(index, self._echo(index), (), None))
        async with self._server.client.generate_all(self._job.requests) as generation:
            steps = self._server.deltas(generation, self._readers, self._state.received, ping=True)
            async for deltas in steps:
                yield b"".join(self._piece(index, delta) for index, delta in deltas)
        if self._wants_usage:
            yield event({**self._head, "choices": [], "usage": self._usage()})
        yield DONE

    @property
    def _wants_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and options.include_usage is True

    def _echo(self, index: int) -> str:
        return self._job.echoes[index // self._job.n]

    def _usage(self) -> dict[str, Any]:
        n = self._job.n
        parts = [usage(self._readers[start : start + n]) for start in range(0, len(self._readers), n)]
        total = {name: sum(part[name] for part in parts) for name in ("prompt_tokens", "completion_tokens")}
        self._state.tokens = f"{total['prompt_tokens']}+{total['completion_tokens']} tokens"
        cached = sum(part["prompt_tokens_details"]["cached_tokens"] for part in parts)
        return {**total, "total_tokens": sum(total.values()), "prompt_tokens_details": {"cached_tokens": cached}}

    def _piece(self, index: int, delta: Delta) -> bytes:
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return b""
        choice = self._choice(index, delta.text, delta.logprobs, delta.finish_reason)
        places = _places(self._readers[index]) if delta.finish_reason else {}
        return self._chunk({**choice, **places})

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        usage_field = {"usage": None} if self._wants_usage else {}
        return event({**self._head, "choices": [choice], **usage_field})

    def _choice(self, index: int, text: str, logprobs: Sequence[Any], finish_reason: str | None) -> dict[str, Any]:
        told = None
        if self._body.logprobs is not None:
            told = completion_logprobs(
                logprobs, self._body.logprobs, self._server.prompts.tokenizer, self._lengths[index]
            )
            self._lengths[index] += len("".join(told["tokens"]))
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish_reason}


def _places(reader: AnswerReader) -> dict[str, Any]:
    found = boxes(reader.text)
    return {"grounding": found} if found else {}
