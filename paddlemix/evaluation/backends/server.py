"""Questions to a server with OpenAI's protocol, several at once."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ...errors import EvaluationError, PaddleMixError
from ...models.qwen_vl.vocabulary import GROUNDING_TAGS
from ..benchmarks import Generation
from ..openai_client import ClientOptions, OpenAIClient, image_url
from ..records import Answer, ImageRef, Question
from .base import AHEAD, Failure, Rates

_TOP = 20
"""Alternatives asked for where a choice is read from the log probabilities of the next token."""
_TAGS = re.compile("|".join(map(re.escape, GROUNDING_TAGS)))
_MAX_FAILURES = 10


@dataclass(frozen=True)
class ServerOptions:
    """A server, and how it is asked.

    Attributes:
        client: address, key, patience.
        model: what the server calls the model.
        api: ``"chat"``: every question is a conversation's first turn, in the server's own template.
            ``"completions"``: prompts of form raw go to ``/completions`` with their images in the field ``images``,
            which paddlemix's own server takes; the protocol is then the published one.
        concurrency: requests at once.
    """

    client: ClientOptions
    model: str
    api: str = "chat"
    concurrency: int = 8


class ServerBackend:
    """A model behind a server.

    Args:
        options: which one.

    Raises:
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._client = OpenAIClient(options.client)
        self.settings: Mapping[str, Any] = {"server": options.client.url, "model": options.model, "api": options.api}
        self.name = options.model

    def answers(self, questions: Iterable[Question], generation: Generation) -> Iterator[Answer | Failure]:
        """See :class:`.base.Backend`."""
        source = iter(questions)
        order: deque[Future[Answer | Failure]] = deque()
        failures = 0
        pool = ThreadPoolExecutor(self._options.concurrency, "requests")
        try:
            while True:
                # as many again wait, so that no connection does
                while len(order) < min(AHEAD, 2 * self._options.concurrency):
                    question = next(source, None)
                    if question is None:
                        break
                    order.append(pool.submit(self._answer, question, generation))
                if not order:
                    return
                result = order.popleft().result()
                failures = failures + 1 if isinstance(result, Failure) else 0
                if isinstance(result, Failure) and failures == _MAX_FAILURES:
                    raise EvaluationError(f"server: {failures} requests in a row failed; the last: {result.reason}")
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def rates(self, questions: Sequence[Question], generation: Generation) -> Rates:
        """See :class:`.base.Backend`. What the server does at the same time is counted as if it had nothing else."""
        began = time.perf_counter()
        result = self._answer(questions[-1], generation)
        if isinstance(result, Failure):
            raise EvaluationError(f"server: the first question already fails: {result.reason}")
        seconds = (time.perf_counter() - began) / self._options.concurrency
        return Rates(seconds, seconds, 0.0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _answer(self, question: Question, generation: Generation) -> Answer | Failure:
        try:
            raw = generation.form == "raw" and self._options.api == "completions"
            body = _completion_body(question) if raw else _chat_body(question)
            body |= {"model": self._options.model, "temperature": 0}
            path = "/completions" if raw else "/chat/completions"
            if question.choices:
                wanted = {"logprobs": _TOP} if raw else {"logprobs": True, "top_logprobs": _TOP}
                body |= {"max_tokens": 1, **wanted}
                return _chosen(question, self._client.post(path, body), raw)
            body["max_tokens"] = generation.max_new_tokens
            if raw and generation.min_new_tokens:
                body["min_tokens"] = generation.min_new_tokens
            answer = _said(question, self._client.post(path, body), raw)
            # as in the engine's answers: its server keeps them in the text
            return answer if generation.keeps_tags else replace(answer, text=_TAGS.sub("", answer.text))
        except PaddleMixError as error:
            return Failure(question.id, str(error))


def _chat_body(question: Question) -> dict[str, Any]:
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": image_url(part.path)}}
        if isinstance(part, ImageRef)
        else {"type": "text", "text": part}
        for part in question.prompt
    ]
    return {"messages": [{"role": "user", "content": content}]}


def _completion_body(question: Question) -> dict[str, Any]:
    parts = list(question.prompt)
    images = [part for part in parts if isinstance(part, ImageRef)]
    if len(images) != 1 or parts[0] is not images[0]:
        raise EvaluationError("api: completions takes prompts with one image, which stands first; use chat")
    text = "".join(part for part in parts if isinstance(part, str))
    return {"prompt": text, "images": [image_url(images[0].path)], "image_labels": False}


def _said(question: Question, reply: Mapping[str, Any], raw: bool) -> Answer:
    choice = _first_choice(reply)
    text = choice.get("text") if raw else (choice.get("message") or {}).get("content")
    if not isinstance(text, str):
        raise EvaluationError("server: its reply has no text")
    tokens = (reply.get("usage") or {}).get("completion_tokens", 0)
    return Answer(
        question.id, text, tokens, finish_reason="length" if choice.get("finish_reason") == "length" else "stop"
    )


def _chosen(question: Question, reply: Mapping[str, Any], raw: bool) -> Answer:
    """The losses of choices, as far as the server tells them.

    A choice that is not among the likeliest tokens gets the loss of the least likely of these: it is larger than that.
    """
    told = _top_logprobs(_first_choice(reply), raw)
    found = [
        max((told[text] for text in (choice, choice.strip()) if text in told), default=None)
        for choice in question.choices
    ]
    if all(value is None for value in found):
        raise EvaluationError(
            f"server: none of the choices {', '.join(map(str.strip, question.choices))} is among the "
            f"{len(told)} likeliest next tokens"
        )
    least = min(told.values())
    losses = tuple(round(-(least if value is None else value), 4) for value in found)
    return Answer(question.id, losses=losses, finish_reason="choice")


def _top_logprobs(choice: Mapping[str, Any], raw: bool) -> dict[str, float]:
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        raise EvaluationError("server: it gives no log probabilities, without which there is no choice by loss")
    if raw:
        return dict((logprobs.get("top_logprobs") or [{}])[0])
    first = (logprobs.get("content") or [{}])[0]
    return {entry["token"]: entry["logprob"] for entry in first.get("top_logprobs") or ()}


def _first_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise EvaluationError("server: its reply has no choices; is it a server with OpenAI's protocol?")
    return choices[0]
