"""Function calls: the ReAct form in which Qwen-VL-Chat knows them, as its ``openai_api.py`` writes and reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.request import Grammar
from .errors import bad_request

STOP_STRING = "Observation:"
"""The model must not make up what a function returns."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHINESE = re.compile("[\u4e00-\u9fff]")
_LEAST_TEXT = 16
_CLOSED = {"enum", "const", "maxLength", "pattern", "format"}
_ACTION, _INPUT, _FINAL = "Action:", "Action Input:", "Final Answer:"

_INSTRUCTION = """Answer the following questions as best you can. You have access to the following APIs:

{descriptions}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!"""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call: its arguments are a JSON object of the schema ``parameters``."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; ``arguments`` is JSON text, if the model wrote it well."""

    name: str
    arguments: str


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request. ``forced``: those one of which must be called; empty where the model decides."""

    tools: tuple[Tool, ...] = ()
    forced: tuple[Tool, ...] = ()

    def grammar(self, max_tokens: int | None) -> Grammar | None:
        """What the answer must look like where a call is forced, and ends within ``max_tokens`` by all odds."""
        return forced_call_grammar(self.forced, max_tokens) if self.forced else None


def read_tool(value: Any, where: str) -> Tool:
    """A function's description, checked.

    Raises:
        APIError: 400.
    """
    if not isinstance(value, dict):
        raise bad_request(where, "expected an object with a name and parameters")
    name, description = value.get("name"), value.get("description")
    parameters = value.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad_request(f"{where}.name", "expected 1 to 64 letters, digits, underscores and dashes")
    if description is not None and not isinstance(description, str):
        raise bad_request(f"{where}.description", "expected a text")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad_request(f"{where}.parameters", "expected a JSON schema, an object")
    return Tool(name, description or "", *([parameters] if parameters else []))


def tool_use(tools: Sequence[Tool], choice: str | None, where: str) -> ToolUse:
    """What a request's tools and its choice come to.

    Args:
        choice: "none", "auto", "required", ``None`` or the name of a function, then as ``"name:NAME"``.

    Raises:
        APIError: a name that no tool has, or a call that must be made without tools.
    """
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise bad_request("tools", "two of the functions have the same name")
    if choice == "none":
        return ToolUse()
    if choice is None or choice == "auto":
        return ToolUse(tuple(tools))
    if choice == "required":
        if not tools:
            raise bad_request(where, "'required' needs tools")
        return ToolUse(tuple(tools), tuple(tools))
    wanted = [tool for tool in tools if f"name:{tool.name}" == choice]
    if not wanted:
        raise bad_request(where, "there is no function of that name among the tools")
    return ToolUse(tuple(tools), tuple(wanted))


def instruction(tools: Sequence[Tool]) -> str:
    """What the model is told of the tools."""
    descriptions = [
        f"{tool.name}: Call this tool to interact with the {tool.name} API. What is the {tool.name} API useful for? "
        f"{tool.description} Parameters: {json.dumps(tool.parameters, ensure_ascii=False)}"
        for tool in tools
    ]
    return _INSTRUCTION.format(descriptions="\n\n".join(descriptions), names=", ".join(tool.name for tool in tools))


def question(text: str, system: str, tools: Sequence[Tool]) -> str:
    """What stands before the user's question: the system's text and the instruction go there, as in the original."""
    return f"{system}\n\n{instruction(tools)}".strip() + f"\n\nQuestion: {text}"


def final_answer(text: str, question_text: str) -> str:
    """An earlier answer without a call, in the form in which the model would have given it."""
    thought = "我会作答了。" if _CHINESE.search(question_text) else "I now know the final answer."
    return f"Thought: {thought}\nFinal answer: {text}"


def call_text(content: str, call: ToolCall, question_text: str) -> str:
    """An earlier call, in the form in which the model made it."""
    if not content.strip():
        chinese = _CHINESE.search(question_text)
        content = f"Thought: 我可以使用 {call.name} API。" if chinese else f"Thought: I can use {call.name}."
    return f"{content.strip()}\nAction: {call.name}\nAction Input: {call.arguments}"


def forced_call_grammar(tools: Sequence[Tool], max_tokens: int | None = None) -> Grammar:
    """A call of one of the tools and nothing else, with arguments of its schema.

    What the schema leaves open is bounded, since a model that goes on and on would never come to the end of the call:
    texts get at most half as many characters, together, as there are tokens, and objects no further properties.
    """
    rules = ["start: " + " | ".join(f"call_{index}" for index in range(len(tools)))]
    for index, tool in enumerate(tools):
        head = json.dumps(f"{_ACTION} {tool.name}\n{_INPUT} ")
        parameters = tool.parameters
        if max_tokens is not None:
            count = _bound_texts(parameters, None)[1]
            parameters, _ = _bound_texts(parameters, max(_LEAST_TEXT, max_tokens // (2 * max(count, 1))))
        schema = {"type": "object", **parameters, "x-guidance": {"whitespace_flexible": False}}
        rules.append(f"call_{index}: {head} arguments_{index}")
        rules.append(f"arguments_{index}: %json {json.dumps(schema)}")
    return Grammar("lark", "\n".join(rules))


def _bound_texts(schema: Any, length: int | None) -> tuple[Any, int]:
    """A schema whose texts of open length have at most ``length`` characters, and how many such texts there are.

    Objects get no properties but those that it names, unless it says so.
    """
    if isinstance(schema, list):
        parts = [_bound_texts(part, length) for part in schema]
        return [part for part, _ in parts], sum(count for _, count in parts)
    if not isinstance(schema, dict):
        return schema, 0
    inside = {name: _bound_texts(value, length) for name, value in schema.items()}
    result, count = {name: value for name, (value, _) in inside.items()}, sum(n for _, n in inside.values())
    if isinstance(schema.get("properties"), dict):
        result.setdefault("additionalProperties", False)
    if schema.get("type") == "string" and not _CLOSED.intersection(schema):
        return {**result, **({} if length is None else {"maxLength": length})}, count + 1
    return result, count


class CallReader:
    """Separates the text of an answer from the call in it, as the text comes.

    What may still belong to a call is held back; so is what stands before ``Final Answer:``, where the answer began by
    thinking.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = {tool.name for tool in tools}
        self._text = ""
        self._shown = 0
        self._thinking: bool | None = None if tools else False

    def push(self, text: str) -> str:
        """What of the text is certain to be for the user."""
        if not self._names:
            return text
        self._text += text
        if self._thinking is None:
            start = self._text.lstrip()
            if any(word.startswith(start[: len(word)]) for word in ("Thought:", _ACTION, _FINAL)):
                self._thinking = True if start.startswith(("Thought:", _ACTION, _FINAL)) else None
            else:
                self._thinking = False
        if self._thinking is not False:
            end = self._text.find(_FINAL)
            # the space behind it may come with the next text
            if end < 0 or end + len(_FINAL) == len(self._text):
                return ""
            self._thinking = False
            self._shown = end + len(_FINAL) + (self._text[end + len(_FINAL)] == " ")
        return self._take(self._safe_end())

    def finish(self) -> tuple[str, ToolCall | None]:
        """The rest of the text, and the call of one of the tools, if there is one."""
        call, end = find_call(self._text)
        if call is None or call.name not in self._names:
            call, end = None, len(self._text)
        return self._take(end), call

    def rest(self) -> str:
        """All that was not handed out, the call included."""
        return self._take(len(self._text))

    def _take(self, end: int) -> str:
        start, self._shown = self._shown, max(end, self._shown)
        return self._text[start : self._shown]

    def _safe_end(self) -> int:
        """Up to where no call has begun: a line that begins with ``Action:``, or may come to."""
        start = self._text.find(f"\n{_ACTION}", max(self._shown - 1, 0))
        if start >= 0:
            return start
        last = self._text.rfind("\n")
        if last >= 0 and f"\n{_ACTION}".startswith(self._text[last:]):
            return last
        return len(self._text)


def find_call(text: str) -> tuple[ToolCall | None, int]:
    """The last call of a text, and where what comes before it ends."""
    lines = f"\n{text}"
    start, middle = lines.rfind(f"\n{_ACTION}"), lines.rfind(f"\n{_INPUT}")
    if not 0 <= start < middle:
        return None, len(text)
    end = lines.find(f"\n{STOP_STRING}", middle)
    name = lines[start + 1 + len(_ACTION) : middle].strip()
    arguments = lines[middle + 1 + len(_INPUT) : end if end >= 0 else None].strip()
    return (ToolCall(name, arguments), max(start - 1, 0)) if name else (None, len(text))
