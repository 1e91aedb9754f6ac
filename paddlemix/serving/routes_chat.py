"""``/v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import __version__
from .answers import AnswerReader, Delta, boxes, chat_logprobs, drawn_image, usage
from .bodies import read_body
from .chat import ChatJob, prepare_chat
from .schemas import ChatBody
from .server import Server, deadline, openai_failure, stream_response
from .sse import DONE, event, unless_gone
from .tools import ToolCall


async def chat_completions(server: Server, request: Request, keep: Callable[[], None]) -> Response:
    """Answer a conversation."""
    body = await read_body(request, ChatBody)
    server.check_model(body.model)
    state = request.state
    job = await server.in_pool(prepare_chat, server, body, state.request_id, state.salt, deadline(request, server))
    server.metrics.request_preparation_time.observe(time.monotonic() - state.received)
    # a client may send an id twice; the engine's must be its own
    job = replace(job, request=replace(job.request, id=server.unique_id("chatcmpl")))
    chat = _Chat(server, body, job, state)
    if body.stream is True:
        return stream_response(server, request, keep, chat.events(), openai_failure)
    return JSONResponse(await unless_gone(request, chat.answer()))


class _Chat:
    """One request and its answers."""

    def __init__(self, server: Server, body: ChatBody, job: ChatJob, state: Any) -> None:
        self._server = server
        self._body = body
        self._job = job
        self._state = state
        self._legacy = body.functions is not None
        self._readers = job.readers(server)
        self._head: dict[str, Any] = {
            "id": job.request.id,
            "created": int(time.time()),
            "model": server.settings.model_name,
            "system_fingerprint": f"paddlemix-{__version__}",
        }
        if job.dropped_turns is not None:
            self._head["dropped_turns"] = job.dropped_turns

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        async with self._server.client.generate(self._job.request, self._job.answers) as generation:
            async for _ in self._server.deltas(generation, self._readers, self._state.received):
                pass
        choices = [await self._choice(index, reader) for index, reader in enumerate(self._readers)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes."""
        for index in range(self._job.answers):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        async with self._server.client.generate(self._job.request, self._job.answers) as generation:
            steps = self._server.deltas(generation, self._readers, self._state.received, ping=True)
            async for deltas in steps:
                yield b"".join([piece for index, delta in deltas for piece in await self._pieces(index, delta)])
        if self._wants_usage:
            yield event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()})
        yield DONE

    @property
    def _wants_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and options.include_usage is True

    def _usage(self) -> dict[str, Any]:
        result = usage(self._readers)
        self._state.tokens = f"{result['prompt_tokens']}+{result['completion_tokens']} tokens"
        return result

    async def _choice(self, index: int, reader: AnswerReader) -> dict[str, Any]:
        end = reader.end if reader.end is not None else Delta()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": reader.text if reader.text or end.call is None else None,
            "refusal": None,
            "annotations": [],
            **self._call(end.call, index, streamed=False),
            **await self._places(reader),
        }
        logprobs = self._logprobs(reader.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self._reason(end)}

    async def _pieces(self, index: int, delta: Delta) -> Sequence[bytes]:
        """The chunks of one step: text, then a call or the boxes, then the end."""
        content: dict[str, Any] = {"content": delta.text} if delta.text or delta.logprobs else {}
        if delta.finish_reason is not None:
            content.update(await self._places(self._readers[index]))
            content.update(self._call(delta.call, index, streamed=True))
        pieces = [self._chunk(index, content, delta.logprobs)] if content else []
        if delta.finish_reason is not None:
            pieces.append(self._chunk(index, {}, finish_reason=self._reason(delta)))
        return pieces

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Sequence[Any] = (), finish_reason: str | None = None
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        usage_field = {"usage": None} if self._wants_usage else {}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage_field})

    def _logprobs(self, entries: Sequence[Any]) -> dict[str, Any] | None:
        if self._job.top_logprobs is None:
            return None
        return chat_logprobs(entries, self._job.top_logprobs, self._server.prompts.tokenizer)

    async def _places(self, reader: AnswerReader) -> dict[str, Any]:
        """Boxes of the answer, and the image with them drawn in, where there are any."""
        places: dict[str, Any] = {}
        found = boxes(reader.text)
        if found:
            places["grounding"] = found
        if found and self._job.newest_image is not None:
            places["drawn_image"] = await self._server.in_pool(drawn_image, self._job.newest_image, reader.text)
        return places

    def _call(self, call: ToolCall | None, index: int, streamed: bool) -> dict[str, Any]:
        if call is None:
            return {}
        function = {"name": call.name, "arguments": call.arguments}
        if self._legacy:
            return {"function_call": function}
        entry: dict[str, Any] = {
            "id": f"call_{self._head['id'][-20:]}{index}",
            "type": "function",
            "function": function,
        }
        return {"tool_calls": [{"index": 0, **entry} if streamed else entry]}

    def _reason(self, end: Delta) -> str | None:
        return "function_call" if self._legacy and end.finish_reason == "tool_calls" else end.finish_reason
