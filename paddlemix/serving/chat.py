"""The part of a chat that is the same for every protocol: from a body to a job for the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..engine.request import Grammar, Request
from .answers import AnswerReader, hidden_ids
from .content import read_conversation
from .errors import bad_request
from .sampling import check_answers, format_grammar, sampling_params, structured_grammar
from .schemas import ChatBody
from .server import Server
from .tools import STOP_STRING, Tool, ToolUse, read_tool, tool_use

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ChatJob:
    """A chat that is ready for the engine.

    Attributes:
        request: the engine's.
        answers: how many are wanted.
        tools: that an answer may call.
        top_logprobs: alternatives with each token; ``None`` without log probabilities.
        newest_image: to draw boxes into, where that is wanted.
        dropped_turns: left out of the prompt; ``None`` where that was not asked for.
    """

    request: Request
    answers: int = 1
    tools: tuple[Tool, ...] = ()
    top_logprobs: int | None = None
    newest_image: Image | None = field(default=None, repr=False)
    dropped_turns: int | None = None

    def readers(self, server: Server) -> list[AnswerReader]:
        """A reader for each answer."""
        hidden = hidden_ids(server.prompts.tokenizer)
        return [AnswerReader(self.tools, hidden) for _ in range(self.answers)]


def prepare_chat(
    server: Server, body: ChatBody, request_id: str, salt: bytes, deadline: float, *, continue_final: bool = False
) -> ChatJob:
    """Everything of a chat that can be done before the engine works; slow.

    Args:
        continue_final: an assistant's last message goes on, also where the body does not say so.

    Raises:
        APIError: 400 that names the field.
    """
    limits = server.settings.limits
    answers = body.n if body.n is not None else 1
    check_answers(1, answers, limits)
    use = read_tools(body, limits.max_tools)
    top = _top_logprobs(body)
    sampling = sampling_params(
        body, server.model.sampling, logprobs=top, more_stops=[STOP_STRING] if use.tools and not use.forced else ()
    )
    grammar = _grammar(server, body, use, sampling.max_tokens)
    go_on = body.continue_final_message is True or (continue_final and body.messages[-1].get("role") == "assistant")
    conversation = read_conversation(body.messages, server.settings, use.tools, continue_final=go_on)
    truncate = body.truncation == "auto"
    prompt = server.prompts.chat(
        conversation,
        add_generation_prompt=body.add_generation_prompt,
        draw=body.draw_boxes is True,
        truncate=truncate,
    )
    request = Request(
        request_id,
        prompt.ids,
        prompt.images,
        sampling,
        grammar,
        deadline,
        prefix_salt(salt, body.cache_salt),
    )
    dropped = prompt.dropped_turns if truncate else None
    return ChatJob(request, answers, use.tools, top, prompt.newest_image, dropped)


def prefix_salt(salt: bytes, more: str | None) -> bytes:
    """What separates cached prefixes: the key that a request came with, and a salt of its own."""
    return salt if more is None else hashlib.sha256(salt + b"\0" + more.encode()).digest()[:16]


def _top_logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs is not None and body.logprobs is not True:
        if body.top_logprobs == 0:
            return None
        raise bad_request("top_logprobs", "needs logprobs: true")
    return (body.top_logprobs or 0) if body.logprobs is True else None


def _grammar(server: Server, body: ChatBody, use: ToolUse, max_tokens: int | None) -> Grammar | None:
    asked = structured_grammar(body.structured_outputs, server.settings.limits)
    where = "structured_outputs"
    if body.response_format is not None and body.response_format.type != "text":
        if asked is not None:
            raise bad_request("structured_outputs", "not beside response_format")
        where = "response_format"
        wrapper = body.response_format.json_schema
        schema = wrapper.get("schema") if wrapper is not None else None
        if schema is not None and not isinstance(schema, dict):
            raise bad_request("response_format.json_schema.schema", "expected a JSON schema, an object")
        asked = format_grammar(body.response_format.type, schema, "response_format.json_schema", server.settings.limits)
    if use.forced:
        if asked is not None:
            raise bad_request(where, "not beside a tool_choice that forces a call")
        asked, where = use.grammar(max_tokens), "tools"
    if asked is not None:
        check_grammar(server, asked, where)
    return asked


def check_grammar(server: Server, grammar: Grammar, where: str) -> None:
    """Raise APIError for a grammar that the engine would refuse."""
    try:
        server.model.check_grammar(grammar)
    except ValueError as error:
        raise bad_request(where, str(error), code="invalid_grammar") from error


def read_tools(body: ChatBody, most: int) -> ToolUse:
    """The tools of a body, in today's form or as ``functions``.

    Raises:
        APIError: 400.
    """
    if body.functions is not None and body.tools is not None:
        raise bad_request("functions", "not beside tools")
    if body.functions is not None:
        values = [(value, f"functions[{index}]") for index, value in enumerate(body.functions)]
        choice = _choice(body.function_call, body.function_call, "function_call")
        where = "function_call"
    else:
        values = [(_function(tool, index), f"tools[{index}].function") for index, tool in enumerate(body.tools or [])]
        named = body.tool_choice.get("function") if isinstance(body.tool_choice, dict) else None
        choice = _choice(body.tool_choice, named, "tool_choice")
        where = "tool_choice"
    if len(values) > most:
        raise bad_request("tools", f"{len(values)} of them, expected at most {most}")
    return tool_use([read_tool(value, place) for value, place in values], choice, where)


def _function(tool: Mapping[str, Any], index: int) -> Any:
    if tool.get("type", "function") != "function":
        raise bad_request(f"tools[{index}].type", "expected function")
    return tool.get("function")


def _choice(choice: Any, named: Any, where: str) -> str | None:
    if not isinstance(choice, dict):
        return choice
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str):
        raise bad_request(where, "expected a word or the name of a function")
    return f"name:{name}"
