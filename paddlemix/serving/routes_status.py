"""All but answers: ``/health``, ``/metrics``, ``/v1/models``, ``/version``, ``/tokenize``, ``/detokenize``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import __version__
from .answers import token_bytes
from .bodies import read_body
from .content import read_conversation
from .engine_client import EngineHandle
from .errors import APIError, bad_request
from .metrics import CONTENT_TYPE
from .schemas import DetokenizeBody, TokenizeBody
from .server import Server

_DEAD_FACTOR = 4


async def health(request: Request) -> Response:
    """Whether the process is worth keeping: 503 once the engine has failed, or hangs."""
    server: Server = request.app.state.server
    live = is_live(server.client.engine, server.settings.stall_seconds)
    return JSONResponse({"status": "ok" if live else "failed"}, 200 if live else 503)


def is_live(engine: EngineHandle, stall_seconds: float) -> bool:
    """Whether an engine's steps succeed, and end."""
    return engine.alive and engine.heartbeat < _DEAD_FACTOR * stall_seconds


async def ready(request: Request) -> Response:
    """Whether requests should be sent here: 503 while loading, draining, and while steps do not end."""
    server: Server = request.app.state.server
    engine = server.client.engine
    if server.admission.draining:
        status = "draining"
    elif not engine.alive:
        status = "failed"
    elif not engine.ready:
        status = "loading"
    else:
        status = "ready" if engine.heartbeat < server.settings.stall_seconds else "stalled"
    if status == "ready":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, 503, headers={"Retry-After": "5"})


async def metrics(request: Request) -> Response:
    """Prometheus' text."""
    server: Server = request.app.state.server
    return Response(await server.in_pool(server.metrics.exposition), media_type=CONTENT_TYPE)


async def version(request: Request) -> Response:
    """The version of paddlemix."""
    return JSONResponse({"version": __version__})


async def models(request: Request) -> Response:
    """The one model there is, as a list."""
    return JSONResponse({"object": "list", "data": [_model(request.app.state.server)]})


async def one_model(request: Request) -> Response:
    """The one model there is, by its name."""
    server: Server = request.app.state.server
    try:
        server.check_model(request.path_params["model"])
    except APIError as error:
        return JSONResponse(error.openai(), error.status)
    return JSONResponse(_model(server))


def _model(server: Server) -> dict[str, Any]:
    return {
        "id": server.settings.model_name,
        "object": "model",
        "created": server.created,
        "owned_by": "paddlemix",
        "max_model_len": server.model.window,
    }


async def tokenize(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """The ids of a text, or of a conversation with the places of its images."""
    body = await read_body(request, TokenizeBody)
    server.check_model(body.model)
    return JSONResponse(await server.in_pool(_tokenized, server, body))


def _tokenized(server: Server, body: TokenizeBody) -> dict[str, Any]:
    tokenizer = server.prompts.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("prompt", "expected either prompt or messages")
    if body.prompt is not None:
        ids = tokenizer.encode(body.prompt, allowed_special=())
    else:
        conversation = read_conversation(body.messages or [], server.settings)
        ids = server.prompts.render(conversation, body.add_generation_prompt).input_ids
    result: dict[str, Any] = {"count": len(ids), "max_model_len": server.model.window, "tokens": ids}
    if body.return_token_strs is True:
        result["token_strs"] = [token_bytes(tokenizer, token).decode("utf-8", "replace") for token in ids]
    return result


async def detokenize(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """The text of ids, special tokens included."""
    body = await read_body(request, DetokenizeBody)
    server.check_model(body.model)
    return JSONResponse({"prompt": await server.in_pool(_detokenized, server, body.tokens)})


def _detokenized(server: Server, tokens: list[int]) -> str:
    tokenizer = server.prompts.tokenizer
    for token in tokens:
        if token >= tokenizer.vocab_size:
            raise bad_request("tokens", f"{token} is beyond the vocabulary of {tokenizer.vocab_size} tokens")
    return b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", "replace")
