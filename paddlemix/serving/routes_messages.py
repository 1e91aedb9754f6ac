"""``/v1/messages`` and ``/v1/messages/count_tokens``, as Anthropic's clients speak."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .answers import AnswerReader, Delta, boxes, usage
from .bodies import check_body, read_body
from .chat import ChatJob, prepare_chat, read_tools
from .content import read_conversation
from .errors import APIError, bad_request
from .schemas import ChatBody, CountTokensBody, MessagesBody
from .server import Server, deadline, stream_response
from .sse import event, unless_gone
from .tools import ToolCall


async def messages(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """Answer a conversation."""
    body = await read_body(request, MessagesBody)
    server.check_model(body.model)
    state = request.state
    job = await server.in_pool(_prepare, server, body, state.request_id, state.salt, deadline(request, server))
    server.metrics.request_preparation_time.observe(time.monotonic() - state.received)
    job = replace(job, request=replace(job.request, id=server.unique_id("msg")))
    answer = _Message(server, job, state)
    if body.stream is True:
        return stream_response(server, request, keep, answer.events(), answer.failed)
    return JSONResponse(await unless_gone(request, answer.answer()))


async def count_tokens(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """How many tokens a conversation has, images included."""
    body = await read_body(request, CountTokensBody)
    server.check_model(body.model)
    return JSONResponse({"input_tokens": await server.in_pool(_count, server, body)})


def _prepare(server: Server, body: MessagesBody, request_id: str, salt: bytes, end: float) -> ChatJob:
    return prepare_chat(server, chat_body(body), request_id, salt, end, continue_final=True)


def _count(server: Server, body: CountTokensBody) -> int:
    chat = chat_body(body)
    tools = read_tools(chat, server.settings.limits.max_tools).tools
    go_on = chat.messages[-1].get("role") == "assistant"
    conversation = read_conversation(chat.messages, server.settings, tools, continue_final=go_on)
    ids = server.prompts.render(conversation).input_ids
    return len(ids)


def chat_body(body: MessagesBody | CountTokensBody) -> ChatBody:
    """The same request in OpenAI's form.

    Raises:
        APIError: 400.
    """
    fields: dict[str, Any] = {"model": body.model or "", "messages": []}
    if body.system is not None:
        fields["messages"].append({"role": "system", "content": body.system})
    for index, message in enumerate(body.messages):
        fields["messages"] += _messages(message, f"messages[{index}]")
    for name in ("max_tokens", "temperature", "top_p", "top_k"):
        fields[name] = getattr(body, name, None)
    fields["stop"] = getattr(body, "stop_sequences", None) or None
    if body.tools:
        fields["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools)]
        fields["tool_choice"] = _choice(body.tool_choice)
    return check_body(fields, ChatBody)


def _messages(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A message as one of OpenAI's, or several: results of tools are messages there."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise bad_request(f"{where}.role", "expected user or assistant")
    if not isinstance(content, list):
        return [{"role": role, "content": content}]
    results, parts, calls = [], [], []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_result" and role == "user":
            results.append({"role": "tool", "content": part.get("content") or ""})
        elif kind == "tool_use" and role == "assistant":
            if not isinstance(part.get("input"), dict):
                raise bad_request(f"{where}.content[{index}].input", "expected an object")
            arguments = json.dumps(part["input"], ensure_ascii=False)
            calls.append({"type": "function", "function": {"name": part.get("name"), "arguments": arguments}})
        elif kind not in ("thinking", "redacted_thinking"):
            parts.append(part)
    if not parts and not calls:
        return results or [{"role": role, "content": content}]
    answer: dict[str, Any] = {"role": role, "content": parts or None}
    if calls:
        answer["tool_calls"] = calls
    return [*results, answer]


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        raise bad_request(f"{where}.type", "expected custom: this server has no tools of its own")
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }
    return {"type": "function", "function": function}


def _choice(choice: Mapping[str, Any] | None) -> Any:
    kind = "auto" if choice is None else choice.get("type")
    if choice is not None and kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    words = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in words:
        raise bad_request("tool_choice.type", "expected auto, any, tool or none")
    return words[str(kind)]


class _Message:
    """One request and its answer."""

    def __init__(self, server: Server, job: ChatJob, state: Any) -> None:
        self._server = server
        self._job = job
        self._state = state
        (self._reader,) = job.readers(server)

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        async with self._server.client.generate(self._job.request) as generation:
            async for _ in self._server.deltas(generation, [self._reader], self._state.received):
                pass
        end = self._reader.end if self._reader.end is not None else Delta()
        content: list[dict[str, Any]] = []
        if self._reader.text or end.call is None:
            content.append(_text_block(self._reader.text))
        if end.call is not None:
            content.append(self._tool_use(end.call))
        return {**self._head(), "content": content, **_stop(end), "usage": self._usage(), **_places(self._reader)}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes."""
        start = _usage(len(self._job.request.prompt_ids), 0, 0)
        message = {**self._head(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": start}
        yield _event("message_start", message=message)
        yield _event("content_block_start", index=0, content_block=_text_block(""))
        async with self._server.client.generate(self._job.request) as generation:
            steps = self._server.deltas(generation, [self._reader], self._state.received, ping=True)
            async for deltas in steps:
                texts = "".join(delta.text for _, delta in deltas)
                yield _delta(0, {"type": "text_delta", "text": texts}) if texts else b""
        for piece in self._closing():
            yield piece

    def failed(self, error: APIError) -> bytes:
        """The event with which a stream ends that cannot go on."""
        return event(error.anthropic(self._state.request_id), "error")

    def _closing(self) -> Sequence[bytes]:
        end = self._reader.end if self._reader.end is not None else Delta()
        pieces = [_event("content_block_stop", index=0)]
        if end.call is not None:
            block = {**self._tool_use(end.call), "input": {}}
            arguments = json.dumps(_arguments(end.call), ensure_ascii=False)
            pieces += [
                _event("content_block_start", index=1, content_block=block),
                _delta(1, {"type": "input_json_delta", "partial_json": arguments}),
                _event("content_block_stop", index=1),
            ]
        delta = {**_stop(end), "container": None, "stop_details": None, **_places(self._reader)}
        return [*pieces, _event("message_delta", delta=delta, usage=self._usage()), _event("message_stop")]

    def _head(self) -> dict[str, Any]:
        model = self._server.settings.model_name
        head = {"id": self._job.request.id, "type": "message", "role": "assistant", "model": model}
        return {**head, "container": None, "stop_details": None}

    def _tool_use(self, call: ToolCall) -> dict[str, Any]:
        name = f"toolu_{self._job.request.id[-20:]}"
        use = {"type": "tool_use", "id": name, "name": call.name, "input": _arguments(call)}
        return {**use, "caller": {"type": "direct"}}

    def _usage(self) -> dict[str, Any]:
        told = usage([self._reader])
        self._state.tokens = f"{told['prompt_tokens']}+{told['completion_tokens']} tokens"
        cached = told["prompt_tokens_details"]["cached_tokens"]
        return _usage(told["prompt_tokens"], cached, told["completion_tokens"])


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


def _usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    """Tokens in Anthropic's form, in which those from a cache are no input; what there is none of here is null."""
    nothing = dict.fromkeys(("cache_creation", "inference_geo", "server_tool_use", "output_tokens_details"))
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": completion,
        **nothing,
        "service_tier": "standard",
    }


def _stop(end: Delta) -> dict[str, Any]:
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    reason = reasons.get(end.finish_reason or "", "end_turn")
    if end.stop_string is not None and reason == "end_turn":
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": end.stop_string if reason == "stop_sequence" else None}


def _places(reader: AnswerReader) -> dict[str, Any]:
    found = boxes(reader.text)
    return {"grounding": found} if found else {}


def _arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments as an object; what is none comes as one with a single entry."""
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):
        value = call.arguments
    return value if isinstance(value, dict) else {"input": value}


def _event(name: str, **fields: Any) -> bytes:
    return event({"type": name, **fields}, name)


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)
