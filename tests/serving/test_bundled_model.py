"""The server over the real engine with the bundled model, in this process, and as a program that is stopped."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from paddlemix.engine.engine import EngineConfig
from paddlemix.options import ModelOptions
from paddlemix.serving.loading import EngineLoader, served_model
from paddlemix.zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR, DEMO_IMAGE
from tests.serving.harness import DEADLINE, Running, events, running, wait_for

IMAGE = "data:image/png;base64," + base64.b64encode(DEMO_IMAGE.read_bytes()).decode()
CAPTION = [{"type": "image_url", "image_url": {"url": IMAGE}}, "Generate the caption in English with grounding:"]
FORM = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def bundled() -> Iterator[Running]:
    options = ModelOptions(model=DEFAULT_MODEL_DIR)
    loader = EngineLoader(options, EngineConfig(cache_bytes=64 << 20))
    with running(model=served_model(options, loader), thread=loader.thread()) as server:
        assert server.thread.wait_until_ready(300)
        yield server


def answer(response: httpx.Response) -> dict:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def test_boxes_of_the_demo_image(bundled):
    message = answer(bundled.chat(CAPTION, draw_boxes=True))
    labels = {box["label"] for box in message["grounding"]}
    assert "a dog" in labels and message["drawn_image"].startswith("data:image/jpeg")
    chunks = [chunk["choices"][0]["delta"] for chunk in events(bundled.chat(CAPTION, stream=True))[:-1]]
    assert "".join(delta.get("content", "") for delta in chunks) == message["content"]


def test_answers_at_once_are_those_alone(bundled):
    questions = ["Where is the dog?", "How many objects are there?", "What color is the bus?", "Where is the cup?"]
    alone = [answer(bundled.chat([CAPTION[0], question]))["content"] for question in questions]
    together: dict[int, str] = {}

    def ask(index: int) -> None:
        together[index] = answer(bundled.chat([CAPTION[0], questions[index]]))["content"]

    threads = [threading.Thread(target=ask, args=[index]) for index in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert [together[index] for index in range(len(questions))] == alone


def test_a_second_turn_computes_its_own_tokens_only(bundled):
    first = answer(bundled.chat(CAPTION))["content"]
    messages = [
        {"role": "user", "content": CAPTION},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Where is the dog?"},
    ]
    usage = bundled.chat(messages=messages).json()["usage"]
    assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] <= 64 + 20


def test_answers_have_the_form_that_is_asked_for(bundled):
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": FORM}}
    assert json.loads(answer(bundled.chat(CAPTION, response_format=schema))["content"])["n"] in (1, 2)
    text = answer(bundled.chat(CAPTION, response_format={"type": "grounding"}, max_tokens=60))["content"]
    assert text.startswith("<ref>")
    tool = {"type": "function", "function": {"name": "count", "parameters": FORM}}
    call = answer(bundled.chat("Count.", tools=[tool], tool_choice="required"))["tool_calls"][0]["function"]
    assert call["name"] == "count" and json.loads(call["arguments"])["n"] in (1, 2)
    for bad in ({"type": "nope"}, {"$ref": "#/nowhere"}):
        schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": bad}}
        assert bundled.chat("x", response_format=schema).json()["error"]["code"] == "invalid_grammar"


def test_a_seed_gives_the_same_answers(bundled):
    ask = {"prompt": "Where is", "temperature": 1.5, "seed": 1, "n": 4, "max_tokens": 5}
    texts = [[c["text"] for c in bundled.post("/v1/completions", **ask).json()["choices"]] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_nothing_stays_behind(bundled):
    wait_for(lambda: bundled.thread.pending == 0 and bundled.thread.stats().blocks_owned == 0)
    stats = bundled.thread.stats()
    assert bundled.server.admission.taken == stats.running == stats.waiting == 0


@pytest.mark.slow
def test_the_program_finishes_its_answers_when_it_is_stopped():
    command = [sys.executable, "-m", "paddlemix.serving", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        address = next(m[1] for line in process.stdout if (m := re.search(r"on (http://\S+)/v1", line)))
        body = {
            "messages": [{"role": "user", "content": "Hi"}],
            "model": DEFAULT_MODEL,
            "ignore_eos": True,
            "max_tokens": 300,
            "stream": True,
        }
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=DEADLINE) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert list(lines)[-2] == "data: [DONE]"
        assert process.wait(DEADLINE) == 0
