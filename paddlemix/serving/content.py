"""Messages of OpenAI's protocol to the project's own; the other protocols are brought to OpenAI's form first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..errors import PromptError
from ..media.fetch import shorten
from ..models.qwen_vl.messages import box_part
from .errors import APIError, bad_request
from .settings import ServerSettings
from .tools import Tool, ToolCall, call_text, final_answer, question

Part = dict[str, Any]

_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image_url", "input_image", "image")
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]{64}")


@dataclass(frozen=True)
class Conversation:
    """Messages for the processor.

    Attributes:
        messages: of the project's schema; images are data URLs or http(s) URLs.
        image_places: where each image came from, as a field of the request.
        continues: the last message is the assistant's and goes on.
    """

    messages: list[dict[str, Any]]
    image_places: list[str]
    continues: bool = False


def read_conversation(
    messages: Sequence[Mapping[str, Any]],
    settings: ServerSettings,
    tools: Sequence[Tool] = (),
    *,
    continue_final: bool = False,
) -> Conversation:
    """Messages of a request, checked.

    Args:
        messages: in OpenAI's form.
        settings: for the limits and what images may be.
        tools: that the model is told of.
        continue_final: the last message is an answer that goes on.

    Raises:
        APIError: 400 that names the message, and the part.
    """
    if len(messages) > settings.limits.max_messages:
        raise bad_request("messages", f"{len(messages)} of them, expected at most {settings.limits.max_messages}")
    reader = _Reader(settings)
    for index, message in enumerate(messages):
        reader.add(message, f"messages[{index}]")
    if not any(message["role"] == "user" for message in reader.messages):
        raise bad_request("messages", "expected at least one message of the user")
    last = reader.messages[-1]["role"]
    if continue_final and last != "assistant":
        raise bad_request("continue_final_message", "the last message is not the assistant's")
    result = _with_tools(reader.messages, tools)
    # after a function's result the model goes on in the same message
    continues = continue_final or (last == "tool" and result[-1]["role"] == "assistant")
    return Conversation(result, reader.places, continues)


class _Reader:
    """Collects messages: ``{"role", "content": [parts]}``, of the assistant also ``"calls"``."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.messages: list[dict[str, Any]] = []
        self.places: list[str] = []

    def add(self, message: Mapping[str, Any], where: str) -> None:
        role = message.get("role")
        if role not in _ROLES:
            raise bad_request(f"{where}.role", f"expected one of {', '.join(_ROLES)}")
        parts = self._parts(message.get("content"), role, where, optional=_has_calls(message))
        if role in ("system", "developer"):
            if any(earlier["role"] != "system" for earlier in self.messages):
                raise bad_request(f"{where}.role", f"{role} messages come first")
            if self.messages:
                self.messages[0]["content"] += [{"type": "text", "text": "\n\n"}, *parts]
                return
            role = "system"
        if role in ("tool", "function"):
            if not any("calls" in earlier for earlier in self.messages):
                raise bad_request(f"{where}.role", f"a {role} message answers a call, and no message before it has one")
            role = "tool"
        entry = {"role": role, "content": parts}
        if role == "assistant":
            calls = _calls(message, where)
            if calls:
                entry["calls"] = calls
        self.messages.append(entry)

    def _parts(self, content: Any, role: str, where: str, optional: bool) -> list[Part]:
        if content is None and optional:
            return []
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        if not isinstance(content, list) or not (content or optional):
            raise bad_request(f"{where}.content", "expected a text or a list of parts")
        return [self._part(part, role, f"{where}.content[{index}]") for index, part in enumerate(content)]

    def _part(self, part: Any, role: str, where: str) -> Part:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_PARTS:
            if not isinstance(part.get("text"), str):
                raise bad_request(f"{where}.text", "expected a text")
            return {"type": "text", "text": part["text"]}
        if kind == "refusal" and role == "assistant":
            return {"type": "text", "text": str(part.get("refusal") or "")}
        if kind in _IMAGE_PARTS:
            if role != "user":
                raise bad_request(where, "images may stand in messages of the user only")
            self.places.append(where)
            if len(self.places) > self._settings.limits.max_images:
                raise bad_request("messages", f"more than {self._settings.limits.max_images} images")
            return {"type": "image", "image": image_source(part, where, self._settings)}
        if kind == "box" and role == "user":
            try:
                return box_part(part, where)
            except PromptError as error:
                raise APIError(400, str(error), param=where) from error
        raise bad_request(f"{where}.type", "expected text or image_url (or box: a label and a place in an image)")


def image_source(part: Mapping[str, Any], where: str, settings: ServerSettings) -> str:
    """The URL of an image part, of any protocol's form.

    Raises:
        APIError: 400: it is neither a data URL nor an http(s) URL of an allowed host.
    """
    url: Any
    source = part.get("source")
    if isinstance(source, dict):  # Anthropic's
        if source.get("type") == "base64" and isinstance(source.get("data"), str):
            url = f"data:{source.get('media_type') or 'image/png'};base64,{source['data']}"
        else:
            url = source.get("url")
        where = f"{where}.source"
    else:
        url = part.get("image_url", part.get("image"))
        url = url.get("url") if isinstance(url, dict) else url
        where = f"{where}.image_url"
    if not isinstance(url, str) or not url:
        raise bad_request(where, "expected a URL")
    scheme = url[:16].partition(":")[0].lower()
    if scheme == "data":
        return url
    if scheme in ("http", "https"):
        _check_host(url, where, settings.allowed_media_domains)
        return url
    if _BASE64.match(url):
        raise bad_request(where, "bare base64; prefix it with data:image/png;base64,")
    raise bad_request(where, "expected a data URL (data:image/png;base64,...) or an http(s) URL")


def _check_host(url: str, where: str, allowed: Sequence[str]) -> None:
    if not allowed:
        raise bad_request(where, "this server fetches no images; send a data URL (data:image/png;base64,...)")
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        host = ""
    if not any(host == domain or (domain.startswith(".") and host.endswith(domain)) for domain in allowed):
        raise bad_request(where, f"{shorten(url)}: images are fetched from some hosts only, and not from this one")


def _has_calls(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "assistant" and bool(message.get("tool_calls") or message.get("function_call"))


def _calls(message: Mapping[str, Any], where: str) -> list[ToolCall]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or len(calls) > 64:
        raise bad_request(f"{where}.tool_calls", "expected a list of at most 64 calls")
    places = [(f"{where}.tool_calls[{i}].function", c.get("function") if isinstance(c, dict) else None)
              for i, c in enumerate(calls)]  # fmt: skip
    if message.get("function_call"):
        places.append((f"{where}.function_call", message["function_call"]))
    result = []
    for place, call in places:
        name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise bad_request(place, "expected a name and arguments, both texts")
        result.append(ToolCall(name, arguments))
    return result


def _with_tools(messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Calls and their results as text of the assistant; the instruction before a question.

    As in the original it stands before the question of the last answered turn, or the first one.
    """
    turns: list[dict[str, Any]] = []
    asked = ""
    for message in messages:
        role, text = message["role"], _text(message["content"])
        if role == "user":
            asked = text
        elif role == "assistant" and "calls" in message:
            for call in message["calls"]:
                _extend(turns, call_text(text, call, asked))
                text = ""
            continue
        elif role == "assistant" and (tools or _is_open(turns)):
            _extend(turns, final_answer(text, asked))
            continue
        elif role == "tool":
            _extend(turns, f"Observation: {text.strip()}")
            continue
        turns.append({"role": role, "content": list(message["content"])})
    if messages[-1]["role"] == "tool":
        _extend(turns, "Thought:")
    return _with_instruction(turns, tools) if tools else turns


def _with_instruction(turns: list[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else []
    answered = [i for i, turn in enumerate(turns[:-1]) if turn["role"] == "user" and turns[i + 1]["role"] != "user"]
    users = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    target = turns[answered[-1] if answered else users[-1]]
    target["content"].insert(0, {"type": "text", "text": question("", _text(system), tools)})
    return turns


def _text(parts: Sequence[Part]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _is_open(turns: Sequence[dict[str, Any]]) -> bool:
    """Whether the last message is an assistant's, which what it says next belongs to."""
    return bool(turns) and turns[-1]["role"] == "assistant"


def _extend(turns: list[dict[str, Any]], text: str) -> None:
    if _is_open(turns):
        turns[-1]["content"].append({"type": "text", "text": f"\n{text}"})
    else:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
