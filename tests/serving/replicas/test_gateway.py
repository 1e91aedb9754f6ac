"""The gateway before replicas that are servers over fake engines in this process; Ray is not needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from starlette.types import Message

from paddlemix.engine.thread import EngineThread
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.serving.app import create_app
from paddlemix.serving.replicas.calls import Call, ReplicaLostError, ReplicasBusyError, answer
from paddlemix.serving.replicas.gateway import Gateway, ModelRoute, create_gateway
from paddlemix.serving.replicas.sessions import ranked
from paddlemix.serving.settings import Limits, ServerSettings
from tests.serving.fake_engine import FakeEngine
from tests.serving.harness import MODEL, fake_model

KEY = {"Authorization": "Bearer secret"}


@dataclass
class FakeReplica:
    """A server over a fake engine; ``dies_after`` so many messages of an answer, once."""

    app: Any
    engine: FakeEngine
    seen: list[Call] = field(default_factory=list)
    dies_after: int | None = None
    dead: bool = False


@dataclass
class FakeReplicas:
    """Replicas in this process, chosen as Ray's router chooses them."""

    them: dict[str, FakeReplica]
    busy: bool = False

    async def answer(self, call: Call, session: str) -> AsyncGenerator[Message, None]:
        if self.busy:
            raise ReplicasBusyError
        alive = [name for name, one in self.them.items() if not one.dead]
        one = self.them[ranked(session, alive)[0]]
        one.seen.append(call)
        messages, count = answer(one.app, call), 0
        try:
            async for message in messages:
                if one.dies_after == count:
                    one.dead = True
                    raise ReplicaLostError
                count += 1
                yield message
        finally:
            await messages.aclose()

    async def running(self) -> int:
        return sum(not one.dead for one in self.them.values())

    async def expositions(self) -> Mapping[str, bytes]:
        return {name: one.app.state.server.metrics.exposition() for name, one in self.them.items()}


@dataclass
class Setting:
    http: httpx.AsyncClient
    replicas: FakeReplicas
    gateway: Gateway
    app: Any

    async def chat(self, text: str = "Where is the bus?", **fields: object) -> httpx.Response:
        messages = fields.pop("messages", [{"role": "user", "content": text}])
        return await self.http.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": messages, **fields}, headers=KEY
        )

    def of(self, response: httpx.Response) -> str:
        """The name of the replica that has seen a request."""
        identity = response.headers["x-request-id"].encode()
        return next(name for name, one in self.replicas.them.items()
                    for call in one.seen if (b"x-request-id", identity) in call.scope["headers"])  # fmt: skip


@contextlib.asynccontextmanager
async def setting(processor: QwenVLProcessor, **changes: Any) -> AsyncIterator[Setting]:
    limits = replace(Limits(), **changes.pop("limits", {}))
    settings = ServerSettings(MODEL, port=0, api_keys=("secret",), limits=limits, **changes)
    threads, them = [], {}
    async with contextlib.AsyncExitStack() as stack:
        for name in ("a", "b"):
            engine = FakeEngine(processor.tokenizer)
            thread = EngineThread(lambda engine=engine: engine)
            thread.start()
            thread.wait_until_ready(10)
            threads.append(thread)
            app = create_app(settings, fake_model(processor), thread)
            await stack.enter_async_context(app.router.lifespan_context(app))
            them[name] = FakeReplica(app, engine)
        replicas = FakeReplicas(them)
        gateway = create_gateway(settings, {MODEL: replicas}, places=4)
        await stack.enter_async_context(gateway.router.lifespan_context(gateway))
        transport = httpx.ASGITransport(gateway)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://localhost"))
        try:
            yield Setting(http, replicas, gateway.state.gateway, gateway)
        finally:
            for thread in threads:
                thread.stop(10)


@pytest.fixture
def run(processor: QwenVLProcessor) -> Iterator[Callable]:
    """Run a test's coroutine on a setting."""

    def run_it(work: Callable[[Setting], Coroutine], **changes: Any) -> None:
        async def inside() -> None:
            async with setting(processor, **changes) as it:
                await asyncio.wait_for(work(it), 30)

        asyncio.run(inside())

    return run_it


def events(response: httpx.Response) -> list[Any]:
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in data]


def test_a_conversation_stays_with_its_replica(run):
    async def work(it: Setting) -> None:
        chosen = {}
        for talk in range(12):
            messages = [{"role": "user", "content": f"conversation {talk}"}]
            names = []
            for _ in range(3):
                response = await it.chat(messages=messages)
                assert response.status_code == 200, response.text
                names.append(it.of(response))
                messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
            assert len(set(names)) == 1
            chosen[talk] = names[0]
        assert set(chosen.values()) == {"a", "b"}

    run(work)


def test_what_a_replica_answers_passes_unchanged(run):
    async def work(it: Setting) -> None:
        plain = await it.chat()
        assert plain.json()["choices"][0]["message"]["content"] == "A red bus."
        streamed = await it.chat(stream=True)
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in events(streamed)[:-1]) == "A red bus."
        assert streamed.headers["content-type"].startswith("text/event-stream")
        wrong = await it.chat(temperature="hot")
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "temperature"
        other = await it.http.post("/v1/chat/completions", content=b"{", headers={**KEY, "Content-Type": "text/plain"})
        assert other.status_code == 415
        assert (await it.http.get("/v1/chat/completions", headers=KEY)).status_code == 405
        assert (await it.http.get("/openapi.json", headers=KEY)).json()["openapi"]
        page = await it.http.get("/")
        assert page.status_code == 200 and "Content-Security-Policy" in page.headers
        listed = (await it.http.get("/v1/models", headers=KEY)).json()
        assert [one["id"] for one in listed["data"]] == [MODEL]
        assert (await it.http.get(f"/v1/models/{MODEL}", headers=KEY)).json()["id"] == MODEL

    run(work)


def test_a_request_names_the_model_that_it_wants(run):
    async def work(it: Setting) -> None:
        first, second = FakeReplicas({"a": it.replicas.them["a"]}), FakeReplicas({"b": it.replicas.them["b"]})
        it.gateway.models = {"other": ModelRoute(first, asyncio.Event()), MODEL: ModelRoute(second, asyncio.Event())}
        assert it.of(await it.chat()) == "b"
        asked = {"model": "x", "messages": [{"role": "user", "content": "x"}]}
        unknown = await it.http.post("/v1/chat/completions", json=asked, headers=KEY)
        assert it.of(unknown) == "a" and unknown.status_code == 404
        assert it.of(await it.http.get(f"/v1/models/{MODEL}", headers=KEY)) == "b"
        assert len((await it.http.get("/v1/models", headers=KEY)).json()["data"]) == 2
        it.replicas.them["a"].dead = True
        ready = await it.http.get("/health/ready")
        assert ready.status_code == 503 and ready.json()["replicas"] == {"other": 0, MODEL: 1}
        assert (await it.chat()).status_code == 200

    run(work)


def test_pages_of_other_origins_may_read_refusals(run):
    async def work(it: Setting) -> None:
        origin = {"Origin": "https://app.example"}
        asked = {**origin, "Access-Control-Request-Method": "POST"}
        assert (await it.http.options("/v1/chat/completions", headers=asked)).status_code == 200
        refusal = await it.http.post("/v1/chat/completions", headers=origin)
        answer = await it.http.get("/version", headers={**origin, **KEY})
        assert refusal.status_code == 401 and answer.status_code == 200
        for response in (refusal, answer):
            assert response.headers.get_list("access-control-allow-origin") == ["https://app.example"]

    run(work, allowed_origins=("https://app.example",))


def test_keys_hosts_and_sizes_are_checked_before_any_replica(run):
    async def work(it: Setting) -> None:
        no_key = await it.http.post("/v1/chat/completions", json={"model": MODEL, "messages": []})
        assert no_key.status_code == 401 and no_key.json()["error"]["code"] == "invalid_api_key"
        host = await it.http.get("/health", headers={"Host": "elsewhere.example"})
        assert host.status_code == 403
        large = await it.chat("x" * 5000)
        assert large.status_code == 413

        # of unknown length
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b" " * 100

        chunked = await it.http.post("/v1/messages", content=pieces(), headers=KEY)
        assert chunked.status_code == 413 and chunked.json()["error"]["type"] == "request_too_large"
        assert not any(one.seen for one in it.replicas.them.values())
        assert it.gateway.admission.taken == 0

    run(work, limits={"max_body_bytes": 2000})


def test_a_plain_answer_is_given_by_another_replica(run):
    async def work(it: Setting) -> None:
        owner = it.of(await it.chat())
        it.replicas.them[owner].dies_after = 0
        response = await it.chat()
        assert response.status_code == 200 and it.of(response) == owner, "it was asked first"
        assert len({name for name, one in it.replicas.them.items() if one.seen}) == 2
        text = (await it.http.get("/metrics", headers=KEY)).text
        assert "paddlemix:replicas_lost_total 1.0" in text
        assert f'paddlemix:replicas_running{{model_name="{MODEL}"}} 1.0' in text
        assert 'replica="a"' in text and 'replica="b"' in text

    run(work)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_stream_ends_with_an_error_event(run, path):
    async def work(it: Setting) -> None:
        for one in it.replicas.them.values():
            one.dies_after = 3
        fields = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 9}
        response = await it.http.post(path, json=fields, headers=KEY)
        assert response.status_code == 200
        if path == "/v1/messages":
            assert response.text.rstrip().splitlines()[-2] == "event: error"
            assert events(response)[-1]["error"]["type"] == "overloaded_error"
        else:
            assert events(response)[-1] == "[DONE]" and events(response)[-2]["error"]["code"] == "replica_lost"
        assert sum(one.dead for one in it.replicas.them.values()) == 1, "it is not begun again elsewhere"
        assert it.gateway.admission.taken == 0

    run(work)


def test_no_room_is_told_in_the_shape_of_the_protocol(run):
    async def work(it: Setting) -> None:
        it.replicas.busy = True
        full = await it.chat()
        assert full.status_code == 429 and full.headers["retry-after"] == "1"
        assert full.json()["error"]["type"] == "rate_limit_error" and full.json()["error"]["code"] == "queue_full"
        it.replicas.busy = False
        for one in it.replicas.them.values():
            one.engine.paused = True
        waiting = [asyncio.ensure_future(it.chat(f"question {i}")) for i in range(4)]
        while it.gateway.admission.taken < 4:
            await asyncio.sleep(0.002)
        full = await it.chat()
        assert full.status_code == 429 and full.json()["error"]["code"] == "queue_full"
        assert 'gateway_rejected_total{status="429"}' in (await it.http.get("/metrics", headers=KEY)).text
        for one in it.replicas.them.values():
            one.engine.paused = False
        assert {(await response).status_code for response in waiting} == {200}
        assert it.gateway.admission.taken == 0

    run(work)


def test_before_the_first_replica_it_says_so_and_afterwards_requests_wait(run):
    async def work(it: Setting) -> None:
        for one in it.replicas.them.values():
            one.dead = True
        early = await it.chat()
        assert early.status_code == 503 and early.json()["error"]["code"] == "not_ready"
        ready = await it.http.get("/health/ready")
        assert ready.status_code == 503 and ready.json() == {"status": "loading", "replicas": {MODEL: 0}}
        assert (await it.http.get("/health")).status_code == 200
        it.replicas.them["a"].dead = False
        assert (await it.http.get("/health/ready")).json() == {"status": "ready", "replicas": {MODEL: 1}}
        assert (await it.chat()).status_code == 200
        assert it.gateway.route(MODEL).seen.is_set()

    run(work)


def test_draining_finishes_what_runs_and_cuts_off_what_takes_too_long(run):
    async def work(it: Setting) -> None:
        for one in it.replicas.them.values():
            one.engine.step_seconds = 0.05
        running = asyncio.ensure_future(it.chat(stream=True))
        while not it.gateway.admission.taken:
            await asyncio.sleep(0.002)
        draining = asyncio.ensure_future(it.gateway.drain(20))
        await asyncio.sleep(0)
        late = await it.chat()
        assert late.status_code == 503 and late.json()["error"]["code"] == "stopping"
        assert (await it.http.get("/health/ready")).json()["status"] == "draining"
        assert events(await running)[-1] == "[DONE]" and "error" not in events(await running)[-2]
        await draining

        it.gateway.admission.draining = False
        for one in it.replicas.them.values():
            one.engine.paused = True
        slow, plain = asyncio.ensure_future(it.chat(stream=True)), asyncio.ensure_future(it.chat())
        while it.gateway.admission.taken < 2 or not it.gateway.forwarding.running:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.1)  # the role of the stream is out
        await it.gateway.drain(0.05)
        assert events(await slow)[-2]["error"]["code"] == "stopping"
        assert (await plain).status_code == 503 and it.gateway.admission.taken == 0

    run(work)


def test_a_client_that_leaves_ends_its_request_at_the_replica(run):
    async def work(it: Setting) -> None:
        for one in it.replicas.them.values():
            one.engine.step_seconds = 0.02
        running = asyncio.ensure_future(it.chat(stream=True))
        while not any(one.engine.rows for one in it.replicas.them.values()):
            await asyncio.sleep(0.002)
        running.cancel()
        while it.gateway.admission.taken or not any(one.engine.aborted for one in it.replicas.them.values()):
            await asyncio.sleep(0.005)

    run(work)
