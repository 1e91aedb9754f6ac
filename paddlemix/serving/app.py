"""The server as an ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import __version__
from . import routes_messages, routes_status
from .engine_client import EngineHandle
from .errors import APIError, server_error
from .middleware import add_gate
from .routes_chat import chat_completions
from .routes_completions import completions
from .routes_page import add_page
from .routes_responses import responses
from .schemas import (
    ChatBody,
    CompletionBody,
    CountTokensBody,
    DetokenizeBody,
    MessagesBody,
    ResponsesBody,
    TokenizeBody,
)
from .server import ServedModel, Server, endpoint
from .settings import ServerSettings

_ERRORS = {
    400: "A field is wrong, missing or not supported, or the body is not JSON.",
    401: "No API key, or a wrong one.",
    403: "The Host header is not a name of this server.",
    404: "No model of that name.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not JSON by its Content-Type.",
    429: "The queue is full.",
    500: "The server failed.",
    503: "The model is being loaded, or the server stopped.",
    504: "The request took too long.",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "request_id": {"type": "string"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def create_app(settings: ServerSettings, model: ServedModel, engine: EngineHandle) -> FastAPI:
    """The application.

    Args:
        settings: of the server.
        model: as the server sees it.
        engine: started by the caller, who also stops it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.server = Server(settings, model, engine)
        try:
            yield
        finally:
            app.state.server.close()

    app = FastAPI(
        title="paddlemix",
        version=__version__,
        description="Qwen-VL behind OpenAI's and Anthropic's protocols.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_routes(app)
    add_page(app)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(APIError, _api_error)
    app.add_exception_handler(Exception, _unexpected)
    add_gate(app, settings)
    return app


def _add_routes(app: FastAPI) -> None:
    _get(app, "/health", routes_status.health, "Whether the process lives.", 503)
    _get(app, "/health/ready", routes_status.ready, "Whether to send requests here.", 503)
    _get(app, "/version", routes_status.version, "The version.")
    _get(app, "/metrics", routes_status.metrics, "Metrics for Prometheus.", media_type="text/plain")
    _get(app, "/v1/models", routes_status.models, "The models there are.")
    _get(app, "/v1/models/{model:path}", routes_status.one_model, "A model.", 404, path_parameters=("model",))
    _post(app, "/v1/chat/completions", endpoint(chat_completions), ChatBody, "Answer a conversation.")
    _post(app, "/v1/completions", endpoint(completions), CompletionBody, "Continue a text.")
    _post(app, "/v1/responses", endpoint(responses), ResponsesBody, "Answer what is sent, without a memory.")
    messages = endpoint(routes_messages.messages)
    _post(app, "/v1/messages", messages, MessagesBody, "Answer a conversation of Anthropic's form.", _ANTHROPIC_ERROR)
    count_tokens = endpoint(routes_messages.count_tokens, needs_engine=False)
    _post(
        app,
        "/v1/messages/count_tokens",
        count_tokens,
        CountTokensBody,
        "The tokens of such a conversation.",
        _ANTHROPIC_ERROR,
    )
    tokenize = endpoint(routes_status.tokenize, needs_engine=False)
    _post(app, "/tokenize", tokenize, TokenizeBody, "A text or a conversation as ids.")
    detokenize = endpoint(routes_status.detokenize, needs_engine=False)
    _post(app, "/detokenize", detokenize, DetokenizeBody, "Ids as text.")


def _get(
    app: FastAPI,
    path: str,
    route: Callable,
    summary: str,
    *errors: int,
    path_parameters: tuple[str, ...] = (),
    media_type: str = "application/json",
) -> None:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path_parameters
    ]
    app.add_api_route(
        path,
        route,
        methods=["GET"],
        summary=summary,
        responses={200: {"content": {media_type: {}}}, **_responses(401, 403, 500, *errors)},
        response_class=Response,
        openapi_extra={"parameters": parameters} if parameters else None,
        response_model=None,
    )


def _post(
    app: FastAPI,
    path: str,
    route: Callable,
    body: type[BaseModel],
    summary: str,
    error_schema: dict[str, Any] = _ERROR_SCHEMA,
) -> None:
    content = {"application/json": {"schema": inline_schema(body)}}
    app.add_api_route(
        path,
        route,
        methods=["POST"],
        summary=summary,
        responses=_responses(*_ERRORS, schema=error_schema),
        openapi_extra={"requestBody": {"required": True, "content": content}},
        response_model=None,
        name=path.strip("/").replace("/", "_"),
        operation_id=path.strip("/").replace("/", "_"),
    )


def _responses(*statuses: int, schema: dict[str, Any] = _ERROR_SCHEMA) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": schema}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def inline_schema(body: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body without references, which would point outside the place where it is put."""
    schema = body.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if reference is not None:
                return resolved(definitions[reference.rsplit("/", 1)[-1]])
            return {name: resolved(value) for name, value in node.items()}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    return resolved(schema)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    messages = {404: "there is no such path here", 405: "this path does not take that method"}
    told = APIError(status, messages.get(status, "the request cannot be answered"), code=f"http_{status}")
    headers = {**told.headers, **(getattr(error, "headers", None) or {})}
    return JSONResponse(told.openai(), status, headers=headers)


async def _api_error(request: Request, error: Exception) -> Response:
    told = error if isinstance(error, APIError) else server_error()
    return JSONResponse(told.openai(), told.status, headers=told.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse(server_error().openai(), 500)
