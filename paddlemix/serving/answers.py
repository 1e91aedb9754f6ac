"""Outputs of the engine to what every protocol's answers consist of: text, calls, boxes, log probabilities, usage."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.request import FinishReason, Output, TokenLogprob
from ..models.qwen_vl import grounding
from .tools import CallReader, Tool, ToolCall

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models.qwen_vl.codec import QWenVLCodec

_LEAST_LOGPROB = -9999.0
"""JSON has no infinity; OpenAI says this instead."""


@dataclass(frozen=True)
class Delta:
    """What one output adds to an answer. ``finish_reason``: "stop", "length" or "tool_calls", with the last one."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    call: ToolCall | None = None
    stop_string: str | None = None


class AnswerReader:
    """One answer as it grows.

    Args:
        tools: that it may call.
        hidden_ids: whose log probabilities are not told: those of marks that are no part of the text.
    """

    def __init__(self, tools: Sequence[Tool] = (), hidden_ids: frozenset[int] = frozenset()) -> None:
        self._calls = CallReader(tools)
        self._hidden = hidden_ids
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.last = Output("")
        self.end: Delta | None = None

    def push(self, output: Output) -> Delta:
        """What is new; the last of an answer has a finish reason."""
        self.last = output
        text = self._calls.push(output.text)
        call, reason = None, None
        if output.finish_reason is not None:
            rest, call = self._calls.finish()
            # half a call is none, whatever it looks like
            if output.finish_reason is FinishReason.LENGTH and call is not None:
                rest, call = rest + self._calls.rest(), None
            text += rest
            reason = "tool_calls" if call is not None else "stop"
            if output.finish_reason is FinishReason.LENGTH:
                reason = "length"
        shown = tuple(entry for entry in output.logprobs if entry.token_id not in self._hidden)
        self.text += text
        self.logprobs += shown
        delta = Delta(text, shown, reason, call, output.stop_string)
        if reason is not None:
            self.end = delta
        return delta


def hidden_ids(tokenizer: QWenVLCodec) -> frozenset[int]:
    """Ids that are no part of an answer's text: the marks of a chat."""
    return frozenset(tokenizer.special_tokens.values()) - tokenizer.grounding_ids


def usage(readers: Iterable[AnswerReader]) -> dict[str, Any]:
    """Tokens of the answers to one prompt, in OpenAI's form."""
    outputs = [reader.last for reader in readers]
    prompt, completion = outputs[0].prompt_tokens, sum(output.completion_tokens for output in outputs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": outputs[0].cached_tokens},
    }


def boxes(text: str) -> list[dict[str, Any]]:
    """The places that an answer points at, in thousandths of the image's width and height."""
    return [{"label": box.label, "box": [box.x1, box.y1, box.x2, box.y2]} for box in grounding.parse(text)]


def drawn_image(image: Image, text: str) -> str | None:
    """The image with the answer's boxes drawn in, as a data URL; ``None`` without boxes."""
    found = grounding.parse(text)
    if not found:
        return None
    buffer = io.BytesIO()
    grounding.draw(image, found).save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def chat_logprobs(entries: Sequence[TokenLogprob], top: int, tokenizer: QWenVLCodec) -> dict[str, Any]:
    """Log probabilities in the form of ``/v1/chat/completions``; bytes are the token's own."""

    def told(token_id: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(tokenizer, token_id)
        return {
            "token": data.decode("utf-8", "replace"),
            "logprob": max(logprob, _LEAST_LOGPROB),
            "bytes": list(data),
        }

    content = [
        {**told(entry.token_id, entry.logprob), "top_logprobs": [told(*other) for other in entry.top[:top]]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    entries: Sequence[TokenLogprob], top: int, tokenizer: QWenVLCodec, offset: int
) -> dict[str, Any]:
    """Log probabilities in the form of ``/v1/completions``; ``offset``: of the first token in the text."""
    result: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for entry in entries:
        token = token_bytes(tokenizer, entry.token_id).decode("utf-8", "replace")
        result["tokens"].append(token)
        result["token_logprobs"].append(max(entry.logprob, _LEAST_LOGPROB))
        others = ((token_bytes(tokenizer, i).decode("utf-8", "replace"), value) for i, value in entry.top[:top])
        result["top_logprobs"].append({text: max(value, _LEAST_LOGPROB) for text, value in others})
        result["text_offset"].append(offset)
        offset += len(token)
    return result


def token_bytes(tokenizer: QWenVLCodec, token_id: int) -> bytes:
    """What a token stands for; nothing for ids of the model beyond the vocabulary."""
    return tokenizer.token_bytes(token_id) if token_id < tokenizer.vocab_size else b""
