"""From the bytes of a request to a checked body."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from ..utils.display import escape_controls, shorten
from ..utils.json_text import JSONError, parse_json
from .errors import APIError, bad_request
from .schemas import Body
from .sse import ClientGoneError

logger = logging.getLogger(__name__)

AnyBody = TypeVar("AnyBody", bound=Body)

# Fields of other servers and of OpenAI that would change the answer, with the values that do not.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "store": (False,),
    "background": (False,),
    "previous_response_id": (),
    "conversation": (),
    "prompt_embeds": (),
    "suffix": ("",),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "early_stopping": (False,),
    "prompt_logprobs": (),
    "bad_words": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "thinking": ({"type": "disabled"},),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "documents": ([],),
    "logits_processors": ([],),
    "lora_request": (),
}
_MOST_NOTED = 1000
_noted: set[str] = set()


async def read_body(request: Request, model: type[AnyBody]) -> AnyBody:
    """The body of a request, checked, off the event loop.

    Raises:
        APIError: 400, 408, 413 or 415.
        ClientGoneError: the client left before its end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise APIError(415, "Content-Type: expected application/json", code="unsupported_media_type")
    server = request.app.state.server
    limits = server.settings.limits
    try:
        data = await asyncio.wait_for(request.body(), limits.request_seconds)
    except ClientDisconnect as error:
        raise ClientGoneError from error
    except asyncio.TimeoutError as error:
        raise APIError(408, "the body did not come to its end in time", code="timeout") from error
    return await server.in_pool(_checked, data, model, limits)


def _checked(data: bytes, model: type[AnyBody], limits: Any) -> AnyBody:
    try:
        value = parse_json(data.decode("utf-8-sig"), max_depth=limits.max_json_depth)
    except UnicodeDecodeError as error:
        raise bad_request(None, "the body is not UTF-8") from error
    except JSONError as error:
        raise bad_request(None, f"the body is not JSON that this server reads: {error}") from error
    if not isinstance(value, dict):
        raise bad_request(None, f"the body is a JSON {type(value).__name__}, expected an object")
    return check_body(value, model)


def check_body(value: dict[str, Any], model: type[AnyBody]) -> AnyBody:
    """A JSON object as a body.

    Raises:
        APIError: a field is missing, of a wrong type or range, or asks for what is not supported.
    """
    try:
        body = model.model_validate(value)
    except ValidationError as error:
        raise _from_validation(error) from error
    for name, given in {**(body.model_extra or {}), **_stored(body)}.items():
        if name in _UNSUPPORTED:
            if given is not None and given not in _UNSUPPORTED[name]:
                raise bad_request(name, "not supported; remove it", code="unsupported_parameter")
        elif name not in _noted and len(_noted) < _MOST_NOTED and name in (body.model_extra or {}):
            _noted.add(name)
            logger.info("unknown field %.60r of a request is ignored", name)
    return body


def _stored(body: Body) -> dict[str, Any]:
    return {name: getattr(body, name) for name in type(body).model_fields if name in _UNSUPPORTED}


def _from_validation(error: ValidationError) -> APIError:
    """The first thing that is wrong, with the field's place."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    # of a union's branches the one that came furthest says most
    detail = max(details, key=lambda d: len(d["loc"])) if len({d["loc"][:1] for d in details}) == 1 else details[0]
    param = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float", "bool"):
            param += f".{part}" if param else part
        elif not param:
            param = escape_controls(shorten(part, 60))
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    code = "missing_required_parameter" if detail["type"] == "missing" else "invalid_value"
    return bad_request(param or None, message, code=code)
