"""Clients that leave, that do not read, and a server that is stopped: nothing goes on for nobody, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import threading

import httpx

from paddlemix.engine.thread import EngineThread
from paddlemix.serving.lifecycle import serve
from paddlemix.serving.settings import ServerSettings
from paddlemix.serving.sse import EventStream
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import DEADLINE, MODEL, events, fake_model, wait_for

USER = [{"role": "user", "content": "Hi"}]


def connected(server) -> socket.socket:
    """A connection of its own, which the test can cut."""
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), DEADLINE)


def send_raw(server, body: dict, path: str = "/v1/chat/completions") -> socket.socket:
    """A request over a connection of its own, which the test can cut."""
    data = json.dumps({"model": MODEL, "messages": USER, **body}).encode()
    connection = connected(server)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def test_answers_end_when_their_client_leaves(server):
    server.engine.paused = True
    for path, body in (
        ("/v1/chat/completions", {"stream": True}), ("/v1/chat/completions", {}), ("/v1/chat/completions", {"n": 3}),
        ("/v1/completions", {"prompt": "x", "stream": True}), ("/v1/completions", {"prompt": ["x", "y"]}),
    ):  # fmt: skip
        answers = 3 if "n" in body else 2 if isinstance(body.get("prompt"), list) else 1
        before = len(server.engine.aborted)
        connection = send_raw(server, body, path)
        wait_for(lambda answers=answers: len(server.engine.rows) == answers)
        connection.close()
        wait_for(lambda before=before, answers=answers: len(server.engine.aborted) == before + answers)
        wait_for(lambda: server.server.admission.taken == 0 and not server.server.client.waiting_generations)
    assert not server.engine.rows


def test_many_that_leave_at_any_time_leave_nothing_behind(server):
    rng = random.Random(0)
    server.engine.step_seconds = 0.001
    server.engine.answer = "word " * 20
    for number in range(30):
        connection = send_raw(server, {"stream": number % 2 == 0})
        if number % 3:
            connection.settimeout(DEADLINE)
            connection.recv(rng.choice((1, 50, 400)))
        connection.close()
    server.idle()
    assert not server.server.client.waiting_generations
    assert server.chat().status_code == 200


def test_half_a_request_takes_a_place_until_its_client_leaves(server):
    connection = connected(server)
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{"
    )
    wait_for(lambda: server.server.admission.taken == 1)
    connection.close()
    server.idle()


def test_a_client_that_does_not_read_is_let_go():
    happened = []

    async def pieces():
        try:
            while True:
                yield b"data: {}\n\n"
        finally:
            happened.append("closed")

    async def never(*_):
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.body":
            await never()

    stream = EventStream(pieces(), lambda: happened.append("released"), send_seconds=0.01, ping_seconds=1)
    asyncio.run(stream({"type": "http"}, never, send))
    assert happened == ["closed", "released"]


def test_a_client_that_leaves_is_let_go_though_a_cancellation_is_lost():
    happened = []

    async def pieces():
        try:
            with contextlib.suppress(asyncio.CancelledError):  # as wait_for may do before Python 3.12
                await asyncio.Event().wait()
            while True:
                await asyncio.sleep(0.001)
                yield b"data: {}\n\n"
        finally:
            happened.append("closed")

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    stream = EventStream(pieces(), lambda: happened.append("released"), send_seconds=1, ping_seconds=1)
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, gone, send), DEADLINE))
    assert happened == ["closed", "released"]


def test_stopping_waits_for_answers_and_lets_no_more_in(start):
    with start() as server:
        server.engine.paused = True
        results = []
        asking = threading.Thread(target=lambda: results.append(server.chat()))
        asking.start()
        wait_for(lambda: server.engine.rows)
        assert server.http.get("/health/ready").json() == {"status": "ready"}
        server.uvicorn.handle_exit(signal.SIGTERM, None)
        wait_for(lambda: server.server.admission.draining)
        response = server.http.get("/health/ready")
        assert response.status_code == 503 and response.json() == {"status": "draining"}
        assert server.http.get("/health").status_code == 200
        refused = server.chat()
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        server.engine.paused = False
        asking.join(DEADLINE)
        assert results[0].json()["choices"][0]["message"]["content"] == "A red bus."
        wait_for(lambda: server.uvicorn.should_exit)


def test_stopping_ends_after_its_time_and_at_a_second_signal(start):
    for drain_seconds, signals in ((0.05, 1), (1000.0, 2)):
        with start(drain_seconds=drain_seconds) as server:
            server.engine.paused = True
            connection = send_raw(server, {"stream": True})
            wait_for(lambda server=server: server.engine.rows)
            server.uvicorn.handle_exit(signal.SIGTERM, None)
            wait_for(lambda server=server: server.server.admission.draining)
            if signals == 2:
                server.uvicorn.handle_exit(signal.SIGTERM, None)
            wait_for(lambda server=server: server.uvicorn.force_exit)
            connection.close()


def test_the_page_is_opened_once_answers_can_be_had(processor, monkeypatch):
    said: list[str] = []
    found: list[int] = []

    def open_page(url: str) -> bool:
        found.append(httpx.get(url, trust_env=False).status_code)
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    monkeypatch.setattr("webbrowser.open", open_page)
    thread = EngineThread(lambda: FakeEngine(processor.tokenizer))
    serve(ServerSettings("m", port=0), fake_model(processor), thread, said.append, open_page=True)
    wait_for(lambda: len(said) == 3)
    assert found == [200] and said[2] == "no browser could be opened"
    address = said[1].removeprefix("page: ")
    assert address.startswith("http://127.0.0.1:") and said[0] == f"serving m on {address}v1"


def test_health_tells_loading_failing_and_stalling(start):
    loading = threading.Event()

    def load():
        loading.wait(DEADLINE)
        raise RuntimeError("no such weights")

    with start(load=load) as server:
        assert server.http.get("/health").status_code == 200
        assert server.http.get("/health/ready").json() == {"status": "loading"}
        response = server.chat()
        assert response.status_code == 503 and response.json()["error"]["code"] == "not_ready"
        loading.set()
        wait_for(lambda: not server.thread.alive)
        assert server.http.get("/health").status_code == 503
        assert server.http.get("/health/ready").json() == {"status": "failed"}
    with start(stall_seconds=0.02) as server:
        release = threading.Event()
        server.engine.step = lambda: release.wait(DEADLINE) and []
        connection = send_raw(server, {"stream": True})
        wait_for(lambda: server.http.get("/health/ready").json() == {"status": "stalled"})
        wait_for(lambda: server.http.get("/health").status_code == 503)
        del server.engine.step
        release.set()
        wait_for(lambda: server.http.get("/health/ready").status_code == 200)
        connection.close()


def test_one_wake_up_of_the_loop_for_each_step(server):
    loop = server.server.client._loop
    calls, original = [], loop.call_soon_threadsafe

    def counted(callback, *args, **kwargs):
        if getattr(callback, "__name__", "") == "_deliver":
            calls.append(len(args[0]))
        return original(callback, *args, **kwargs)

    loop.call_soon_threadsafe = counted
    try:
        before = server.engine.steps
        assert len(server.chat(n=4, temperature=1).json()["choices"]) == 4
        assert len(calls) <= server.engine.steps - before and max(calls) == 4
    finally:
        del loop.call_soon_threadsafe


def test_metrics_add_up(start):
    with start() as server:
        server.chat()
        events(server.chat(stream=True))
        server.chat(temperature=9)
        text = server.http.get("/metrics").text
        labels = f'{{model_name="{MODEL}"}}'
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
        assert float(values[f'paddlemix:request_success_total{{finished_reason="stop",model_name="{MODEL}"}}']) == 2
        assert float(values[f'paddlemix:request_rejected_total{{model_name="{MODEL}",status="400"}}']) == 1
        assert float(values[f"paddlemix:num_requests_running{labels}"]) == 0
        assert float(values[f"paddlemix:time_to_first_token_seconds_count{labels}"]) == 2
        assert float(values[f"paddlemix:inter_token_latency_seconds_count{labels}"]) > 2
        assert "Where is the bus" not in text
        for name in ("num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
                     "prefix_cache_hits_total", "generation_tokens_total", "num_aborted_requests_total"):  # fmt: skip
            assert f"paddlemix:{name}{labels}" in values
