"""``/v1/responses``: one answer to what is sent; nothing is stored and nothing earlier is referred to."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .answers import Delta, boxes, usage
from .bodies import check_body, read_body
from .chat import ChatJob, prepare_chat
from .errors import APIError, bad_request
from .schemas import ChatBody, ResponsesBody
from .server import Server, deadline, stream_response
from .sse import event, unless_gone
from .tools import ToolCall


async def responses(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """Answer what is sent."""
    body = await read_body(request, ResponsesBody)
    server.check_model(body.model)
    state = request.state
    job = await server.in_pool(_prepare, server, body, state.request_id, state.salt, deadline(request, server))
    server.metrics.request_preparation_time.observe(time.monotonic() - state.received)
    job = replace(job, request=replace(job.request, id=server.unique_id("resp")))
    answer = _Response(server, body, job, state)
    if body.stream is True:
        return stream_response(server, request, keep, answer.events(), answer.failed)
    return JSONResponse(await unless_gone(request, answer.answer()))


def _prepare(server: Server, body: ResponsesBody, request_id: str, salt: bytes, end: float) -> ChatJob:
    try:
        return prepare_chat(server, chat_body(body), request_id, salt, end)
    except APIError as error:
        if error.param is not None and error.param.startswith("messages"):
            # the client knows its messages as items of the input
            param = "input" + error.param.removeprefix("messages")
            raise APIError(400, str(error).replace(error.param, param, 1), param=param, code=error.code) from error
        raise


def chat_body(body: ResponsesBody) -> ChatBody:
    """The same request in the form of ``/v1/chat/completions``.

    Raises:
        APIError: 400.
    """
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages = [_message(item, f"input[{i}]") for i, item in enumerate(items)]
    fields: dict[str, Any] = {"model": body.model, "messages": messages}
    if body.instructions is not None:
        fields["messages"].insert(0, {"role": "system", "content": body.instructions})
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        fields[name] = getattr(body, name)
    fields["max_tokens"] = body.max_output_tokens
    if body.top_logprobs:
        fields.update(logprobs=True, top_logprobs=body.top_logprobs)
    if body.text is not None and body.text.get("format") is not None:
        fields["response_format"] = _format(body.text["format"])
    if body.tools:
        fields["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools)]
        choice = body.tool_choice
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        fields["tool_choice"] = choice
    return check_body(fields, ChatBody)


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item.get("role"), "content": item.get("content")}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    raise bad_request(f"{where}.type", "expected message, function_call or function_call_output")


def _format(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_request("text.format", "expected an object with a type")
    if value.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {"name": value.get("name"), "schema": value.get("schema")}}
    return {"type": value.get("type")}


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise bad_request(f"{where}.type", "expected function: this server has no tools of its own")
    return {"type": "function", "function": {name: tool.get(name) for name in ("name", "description", "parameters")}}


class _Response:
    """One request and its answer."""

    def __init__(self, server: Server, body: ResponsesBody, job: ChatJob, state: Any) -> None:
        self._server = server
        self._body = body
        self._job = job
        self._state = state
        (self._reader,) = job.readers(server)
        self._created = int(time.time())
        self._number = -1

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        async with self._server.client.generate(self._job.request) as generation:
            async for _ in self._server.deltas(generation, [self._reader], self._state.received):
                pass
        return self._object(self._end)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes."""
        empty = self._object(None)
        yield self._event("response.created", response=empty)
        yield self._event("response.in_progress", response=empty)
        place = {"item_id": self._item_id("msg"), "output_index": 0, "content_index": 0}
        yield self._event("response.output_item.added", output_index=0, item=self._message("in_progress", []))
        yield self._event("response.content_part.added", **place, part=_text_part(""))
        async with self._server.client.generate(self._job.request) as generation:
            steps = self._server.deltas(generation, [self._reader], self._state.received, ping=True)
            async for deltas in steps:
                text = "".join(delta.text for _, delta in deltas)
                yield self._event("response.output_text.delta", **place, delta=text, logprobs=[]) if text else b""
        for piece in self._closing(place):
            yield piece

    def _closing(self, place: dict[str, Any]) -> list[bytes]:
        end, text = self._end, self._reader.text
        status = _status(end)
        pieces = [
            self._event("response.output_text.done", **place, text=text, logprobs=[]),
            self._event("response.content_part.done", **place, part=_text_part(text)),
            self._event("response.output_item.done", output_index=0, item=self._message(status, [_text_part(text)])),
        ]
        if end.call is not None:
            item = self._call(end.call)
            call_place = {"item_id": item["id"], "output_index": 1}
            started = {**item, "arguments": "", "status": "in_progress"}
            arguments = end.call.arguments
            pieces += [
                self._event("response.output_item.added", output_index=1, item=started),
                self._event("response.function_call_arguments.delta", **call_place, delta=arguments),
                self._event(
                    "response.function_call_arguments.done", **call_place, name=end.call.name, arguments=arguments
                ),
                self._event("response.output_item.done", output_index=1, item=item),
            ]
        name = "response.completed" if status == "completed" else "response.incomplete"
        return [*pieces, self._event(name, response=self._object(end))]

    def failed(self, error: APIError) -> bytes:
        """The event with which a stream ends that cannot go on."""
        response = {**self._object(None), "status": "failed"}
        response["error"] = {"code": error.code or "server_error", "message": str(error)}
        return self._event("response.failed", response=response)

    @property
    def _end(self) -> Delta:
        return self._reader.end if self._reader.end is not None else Delta(finish_reason="stop")

    def _object(self, end: Delta | None) -> dict[str, Any]:
        """The response; with ``None`` as it is before anything was generated."""
        body, sampling = self._body, self._job.request.sampling
        status = "in_progress" if end is None else _status(end)
        output = [] if end is None else [self._message(status, [_text_part(self._reader.text)])]
        if end is not None and end.call is not None:
            output.append(self._call(end.call))
        return {
            "id": self._job.request.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None if end is None else int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "model": self._server.settings.model_name,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "background": False,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "top_logprobs": body.top_logprobs or 0,
            "text": body.text if body.text and body.text.get("format") else {"format": {"type": "text"}},
            "tool_choice": body.tool_choice if body.tool_choice is not None else "auto",
            "tools": [_told_tool(tool) for tool in body.tools or []],
            "truncation": "disabled",
            "service_tier": "default",
            "safety_identifier": None,
            "prompt_cache_key": None,
            "usage": None if end is None else self._usage(),
            "metadata": body.metadata or {},
            **({} if body.user is None else {"user": body.user}),
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        item = {"type": "message", "id": self._item_id("msg"), "status": status, "role": "assistant"}
        found = boxes(self._reader.text) if content else []
        return {**item, "content": content, **({"grounding": found} if found else {})}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        ids = {"id": self._item_id("fc"), "call_id": self._item_id("call")}
        return {"type": "function_call", **ids, "name": call.name, "arguments": call.arguments, "status": "completed"}

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._job.request.id[-24:]}"

    def _usage(self) -> dict[str, Any]:
        told = usage([self._reader])
        self._state.tokens = f"{told['prompt_tokens']}+{told['completion_tokens']} tokens"
        return {
            "input_tokens": told["prompt_tokens"],
            "input_tokens_details": told["prompt_tokens_details"],
            "output_tokens": told["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": told["total_tokens"],
        }

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": name, "sequence_number": self._number, **fields}, name)


def _status(end: Delta) -> str:
    return "incomplete" if end.finish_reason == "length" else "completed"


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _told_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as it was sent, with the fields that clients expect of each."""
    return {"description": None, "parameters": None, "strict": None, **tool}
