"""A server over the fake engine, listening on a free port of this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import httpx
from PIL import Image

from paddlemix.engine.thread import EngineThread
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.serving.app import create_app
from paddlemix.serving.lifecycle import uvicorn_server
from paddlemix.serving.sampling import SamplingDefaults
from paddlemix.serving.server import ServedModel
from paddlemix.serving.settings import Limits, ServerSettings
from tests.serving.fake_engine import WINDOW, FakeEngine

MODEL = "test-model"
DEADLINE = 20.0  # for anything to happen, on a busy machine


@dataclass
class Running:
    """A server that runs, and a client of it."""

    app: object
    url: str
    engine: FakeEngine
    thread: EngineThread
    uvicorn: object
    http: httpx.Client

    @property
    def server(self) -> object:
        return self.app.state.server

    def chat(self, content: object = "Where is the bus?", **fields: object) -> httpx.Response:
        """One question of a user."""
        messages = fields.pop("messages", [{"role": "user", "content": content}])
        return self.http.post("/v1/chat/completions", json={"model": MODEL, "messages": messages, **fields})

    def post(self, path: str, **body: object) -> httpx.Response:
        return self.http.post(path, json={"model": MODEL, **body})

    def idle(self) -> None:
        """Wait until no request is inside and the engine has nothing to do."""
        wait_for(lambda: self.server.admission.taken == 0 and not self.engine.rows and not self.thread.pending)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so; fail after a long time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def events(response: httpx.Response) -> list:
    """The events of a stream; ``"[DONE]"`` stays a text, comments are left out."""
    result = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            result.append(lines["data"] if lines["data"] == "[DONE]" else json.loads(lines["data"]))
    return result


def data_url(color: tuple = (200, 30, 30), size: tuple = (20, 12), kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_part(url: str | None = None) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url() if url is None else url}}


def fake_model(processor: QwenVLProcessor) -> ServedModel:
    """The bundled model's tokenizer and images, before an engine that needs no weights."""
    tokenizer = processor.tokenizer
    defaults = SamplingDefaults(
        {"max_new_tokens": 256}, (tokenizer.im_end_id, tokenizer.eod_id), (), tokenizer.vocab_size
    )
    return ServedModel(processor, WINDOW, defaults)


@contextlib.contextmanager
def running(
    processor: QwenVLProcessor | None = None,
    load: Callable | None = None,
    model: ServedModel | None = None,
    thread: EngineThread | None = None,
    **changes: object,
) -> Iterator[Running]:
    """A server over the fake engine, or over a ``thread`` for a ``model``.

    Args:
        load: another way to make the fake engine.
        **changes: settings that are not the usual ones; ``limits``: those of its limits that are others.
    """
    limits = replace(Limits(), **changes.pop("limits", {}))
    settings = ServerSettings(**{"model_name": MODEL, "port": 0, "drain_seconds": 5.0, **changes}, limits=limits)
    model = fake_model(processor) if model is None else model
    engine = FakeEngine(model.processor.tokenizer)
    if thread is None:
        thread = EngineThread(load if load is not None else lambda: engine)
    thread.start()
    app = create_app(settings, model, thread)
    server = uvicorn_server(app, settings)
    loop = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    loop.start()
    wait_for(lambda: server.started or not loop.is_alive())
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {settings.api_keys[0]}"} if settings.api_keys else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=DEADLINE, trust_env=False) as http:
            yield Running(app, url, engine, thread, server, http)
    finally:
        engine.paused, engine.step_seconds = False, 0.0
        server.should_exit = server.force_exit = True
        loop.join(DEADLINE)
        thread.stop(DEADLINE)
