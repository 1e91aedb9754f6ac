from __future__ import annotations

import base64
import io
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.backends.base import Failure
from paddlemix.evaluation.backends.server import ServerBackend, ServerOptions
from paddlemix.evaluation.benchmarks import Generation
from paddlemix.evaluation.openai_client import ClientOptions
from paddlemix.evaluation.records import Answer, Question
from tests.evaluation.fake_server import Reply, chat_reply, serving
from tests.evaluation.toys import toy_benchmark, write_images

CHAT = Generation(0, 7, "chat")


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    write_images(tmp_path)
    return toy_benchmark(questions=12).questions(tmp_path)


def ask(url: str, questions: list[Question], generation: Generation = CHAT, **options: Any) -> list[Answer | Failure]:
    client = ClientOptions(url, "secret", timeout=0.5, retries=2, first_wait=0.01)
    backend = ServerBackend(ServerOptions(client, "m", **options))
    try:
        return list(backend.answers(questions, generation))
    finally:
        backend.close()


def test_questions_are_asked_as_chats_and_answers_keep_their_order(questions: list[Question]) -> None:
    with serving(lambda path, body: chat_reply(body["messages"][0]["content"][1]["text"])) as (url, got):
        answers = ask(url, questions)
    assert [(a.id, a.text) for a in answers if isinstance(a, Answer)] == [(q.id, q.prompt[1]) for q in questions]
    body = next(body for body in got if body["messages"][0]["content"][1]["text"] == "What is 0?")
    assert (body["path"], body["key"]) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 7, 0)
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_raw_prompts_go_to_completions_where_the_server_takes_them(questions: list[Question]) -> None:
    reply = (
        200,
        {"choices": [{"text": "<box> two</box>", "finish_reason": "length"}], "usage": {"completion_tokens": 1}},
    )
    with serving(lambda path, body: reply) as (url, got):
        (answer,) = ask(url, questions[:1], Generation(1, 10, "raw"), api="completions")
    assert answer == Answer("q0", " two", 1, finish_reason="length")
    assert got[0]["path"] == "/v1/completions" and got[0]["prompt"] == "What is 0?"
    assert (got[0]["min_tokens"], got[0]["image_labels"], len(got[0]["images"])) == (1, False, 1)


def test_choices_are_read_from_log_probabilities(tmp_path: Path) -> None:
    write_images(tmp_path)
    asked = toy_benchmark(questions=1, form="raw", choices=(" A", " B", " C")).questions(tmp_path)
    top = [{"token": "B", "logprob": -0.5}, {"token": " A", "logprob": -1.0}, {"token": "x", "logprob": -4.0}]
    with serving(lambda path, body: chat_reply("B", logprobs={"content": [{"top_logprobs": top}]})) as (url, got):
        (answer,) = ask(url, asked)
    assert isinstance(answer, Answer) and answer.losses == (1.0, 0.5, 4.0)
    assert (got[0]["max_tokens"], got[0]["top_logprobs"]) == (1, 20)
    for logprobs, words in (
        (None, "gives no log probabilities"),
        ({"content": [{"top_logprobs": top[2:]}]}, "none of the choices A, B, C"),
        ({"content": []}, "none of the choices A, B, C"),
    ):
        reply = chat_reply("x", logprobs=logprobs)
        with serving(lambda path, body, reply=reply: reply) as (url, _):  # type: ignore[misc]
            (failure,) = ask(url, asked)
        assert isinstance(failure, Failure) and words in failure.reason


def test_a_busy_server_is_asked_again(questions: list[Question]) -> None:
    lock, calls = threading.Lock(), [0]

    def reply(path: str, body: dict[str, Any]) -> Reply:
        with lock:
            calls[0] += 1
            return (503, {"error": "busy"}) if calls[0] % 2 else chat_reply("yes")

    with serving(reply) as (url, _):
        assert [a.text for a in ask(url, questions[:3], concurrency=1) if isinstance(a, Answer)] == ["yes"] * 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((400, {"error": {"message": "no images here"}}), "status 400 .*no images here"),
        ((503, {"error": "busy"}), "status 503 .* 3 times"),
        ((200, b"<html>"), "no JSON"),
        ((200, {"choices": []}), "no choices"),
        ((200, {"choices": [{"message": {"content": None}}]}), "no text"),
    ],
)
def test_a_failed_request_is_a_failure_and_no_answer(questions: list[Question], reply: Reply, words: str) -> None:
    with serving(lambda path, body: reply) as (url, _):
        (failure,) = ask(url, questions[:1])
    assert isinstance(failure, Failure) and re.search(words, failure.reason)


def test_a_server_that_is_gone_ends_the_run(questions: list[Question]) -> None:
    with serving(lambda path, body: chat_reply("")) as (url, _):
        pass
    with pytest.raises(EvaluationError, match="10 requests in a row failed; the last: server: no answer .*3 times"):
        ask(url, questions)


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(EvaluationError, match="expected an address such as"):
        ClientOptions("127.0.0.1:8000")
