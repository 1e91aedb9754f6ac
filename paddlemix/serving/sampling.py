"""Fields of a body to the engine's sampling parameters and to what an answer must look like."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.request import Grammar, SamplingParams
from ..utils.json_text import JSONError, check_depth
from .errors import bad_request
from .schemas import ChatBody, CompletionBody, MessagesBody, ResponsesBody, SamplingFields, StructuredOutputs
from .settings import Limits


@dataclass(frozen=True)
class SamplingDefaults:
    """What holds where a request says nothing: the model's ``generation_config.json``.

    Attributes:
        options: of the file.
        stop_token_ids: that end every answer.
        stop_sequences: of ids, likewise.
        vocab_size: ids at least so large are refused.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    vocab_size: int = 1 << 31


Sampled = (ChatBody, CompletionBody, ResponsesBody, MessagesBody)


def sampling_params(
    body: SamplingFields | ResponsesBody | MessagesBody,
    defaults: SamplingDefaults,
    *,
    logprobs: int | None = None,
    more_stops: Collection[str] = (),
) -> SamplingParams:
    """How to answer a request.

    Args:
        logprobs: so many alternatives with each token; ``None`` for no log probabilities.
        more_stops: texts that end the answer beside those of the request.

    Raises:
        APIError: 400 for an id beyond the vocabulary.
    """

    def given(name: str, default: Any) -> Any:
        value = getattr(body, name, None)
        return default if value is None else value

    options = defaults.options
    sampled = options.get("do_sample") is True
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    limits = [value for name in names if (value := getattr(body, name, None)) is not None]
    max_tokens = limits[0] if limits else options.get("max_new_tokens")
    ids = given("stop_token_ids", [])
    for token in ids:
        _check_id(token, "stop_token_ids", defaults.vocab_size)
    stop = given("stop", given("stop_sequences", []))
    stops = [stop] if isinstance(stop, str) else list(stop)
    ends = () if given("ignore_eos", False) else defaults.stop_token_ids
    seed = given("seed", options.get("seed"))
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min(given("min_tokens", options.get("min_new_tokens", 0)), max_tokens or 1 << 30),
        temperature=float(given("temperature", options.get("temperature", 1.0) if sampled else 0.0)),
        top_k=max(given("top_k", options.get("top_k", 0) if sampled else 0), 0),
        top_p=float(given("top_p", options.get("top_p", 1.0) if sampled else 1.0)),
        min_p=float(given("min_p", 0.0)),
        repetition_penalty=float(given("repetition_penalty", options.get("repetition_penalty", 1.0))),
        presence_penalty=float(given("presence_penalty", 0.0)),
        frequency_penalty=float(given("frequency_penalty", 0.0)),
        logit_bias=_logit_bias(given("logit_bias", {}), defaults.vocab_size),
        logprobs=logprobs,
        seed=None if seed is None or seed == -1 else seed % (1 << 63),
        stop_token_ids=tuple(dict.fromkeys((*ends, *ids))),
        stop_sequences=defaults.stop_sequences,
        stop_strings=tuple(dict.fromkeys((*stops, *more_stops))),
        prompt_lookup_num_tokens=given("prompt_lookup_num_tokens", 0),
    )


def _logit_bias(bias: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    result = {}
    for name, value in bias.items():
        if not name.isdecimal() or len(name) > 10:
            raise bad_request("logit_bias", "expected the ids of tokens as names")
        _check_id(int(name), "logit_bias", vocab_size)
        result[int(name)] = float(value)
    return result


def _check_id(token: int, where: str, vocab_size: int) -> None:
    if token >= vocab_size:
        raise bad_request(where, f"{token} is beyond the vocabulary of {vocab_size} tokens")


def check_answers(prompts: int, n: int, limits: Limits) -> None:
    """Raise APIError for more answers than one request may ask for, before anything is copied."""
    if prompts * n > limits.max_answers:
        asked = f"{n}" if prompts == 1 else f"{prompts} prompts with {n}"
        raise bad_request("n" if prompts == 1 else "prompt", f"{asked} answers, expected at most {limits.max_answers}")


def format_grammar(kind: str, schema: Mapping[str, Any] | None, where: str, limits: Limits) -> Grammar | None:
    """What a ``response_format`` means; ``schema``: of ``json_schema``.

    Raises:
        APIError: 400 for a schema that is too large or deep or not there.
    """
    if kind == "text":
        return None
    if kind == "json_schema":
        if schema is None:
            raise bad_request(where, "expected an object with a schema")
        return Grammar("json_schema", _schema_text(schema, where, limits))
    return Grammar(kind)


def structured_grammar(outputs: StructuredOutputs | None, limits: Limits) -> Grammar | None:
    """What ``structured_outputs`` means.

    Raises:
        APIError: 400.
    """
    if outputs is None:
        return None
    given = [n for n in ("json_", "regex", "choice") if getattr(outputs, n) is not None]
    if len(given) != 1:
        raise bad_request("structured_outputs", "expected exactly one of json, regex and choice")
    if outputs.regex is not None:
        return Grammar("regex", outputs.regex)
    if outputs.choice is not None:
        return Grammar("choice", json.dumps(outputs.choice, ensure_ascii=False))
    schema = outputs.json_
    if not isinstance(schema, dict):
        raise bad_request("structured_outputs.json", "expected a JSON schema, an object")
    return Grammar("json_schema", _schema_text(schema, "structured_outputs.json", limits))


def _schema_text(schema: Mapping[str, Any], where: str, limits: Limits) -> str:
    try:
        check_depth(schema, limits.max_schema_depth)
    except JSONError as error:
        raise bad_request(where, str(error)) from error
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > limits.max_schema_bytes:
        raise bad_request(where, f"{len(text)} characters, expected at most {limits.max_schema_bytes}")
    return text
