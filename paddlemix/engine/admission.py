"""What of a request is checked before anything is computed for it."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ConfigurationError, PromptError
from .prompt_lookup import MAX_PROPOSED
from .protocols import ModelRunner
from .request import Request, SamplingParams

#: field -> lowest and highest value.
_RANGES: dict[str, tuple[float, float]] = {
    "min_tokens": (0, math.inf),
    "temperature": (0, 1e6),
    "top_k": (-1, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-1e3, 1e3),
    "frequency_penalty": (-1e3, 1e3),
    "seed_index": (0, math.inf),
    "prompt_lookup_num_tokens": (0, MAX_PROPOSED),
}


def admitted(request: Request, runner: ModelRunner, capacity: int, *, has_text: bool) -> int:
    """Check a request; how many tokens may be generated for it.

    Args:
        request: to be checked.
        runner: the model.
        capacity: positions of the whole cache.
        has_text: whether there is a tokenizer.

    Raises:
        ConfigurationError: an option that cannot be.
        PromptError: the prompt is empty, malformed, or leaves no room for an answer.
    """
    _check_sampling(request.sampling, runner.vocab_size, has_text)
    length = len(request.prompt_ids)
    if not length:
        raise PromptError("prompt: it has no ids; an answer needs something to follow")
    ids = np.asarray(request.prompt_ids)
    if ids.min() < 0 or ids.max() >= runner.embedded:
        raise PromptError(f"prompt: expected ids from 0 to {runner.embedded - 1}, got {ids.min()} to {ids.max()}")
    limit = min(runner.window, capacity)
    if length >= limit:
        where = "model's window" if limit == runner.window else "cache"
        raise PromptError(
            f"prompt: {length} tokens leave no room in the {where} of {limit}; shorten the prompt or send fewer images"
        )
    _check_images(request, runner.image_tokens)
    if request.prefill_chunk_size is not None and request.prefill_chunk_size < 1:
        raise ConfigurationError(f"prefill_chunk_size: expected at least 1, got {request.prefill_chunk_size}")
    asked = request.sampling.max_tokens
    return limit - length if asked is None else min(asked, limit - length)


def _check_sampling(params: SamplingParams, vocab_size: int, has_text: bool) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(params, name)
        if not low <= value <= high:
            raise ConfigurationError(f"{name}: expected {low:g} to {high:g}, got {value!r}")
    if params.max_tokens is not None and params.max_tokens < 1:
        raise ConfigurationError(f"max_tokens: expected at least 1, got {params.max_tokens}")
    if params.logprobs is not None and not 0 <= params.logprobs <= vocab_size:
        raise ConfigurationError(f"logprobs: expected 0 to {vocab_size}, got {params.logprobs}")
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not math.isfinite(bias):
            raise ConfigurationError(
                f"logit_bias: expected finite numbers for ids from 0 to {vocab_size - 1}, got {bias!r} for {token!r}"
            )
    if params.stop_strings and not has_text:
        raise ConfigurationError("stop_strings: this engine was made without a tokenizer; use stop_token_ids")


def _check_images(request: Request, image_tokens: int) -> None:
    behind = 0
    for index, image in enumerate(request.images):
        end = image.start + image_tokens
        if image.start < behind or end > len(request.prompt_ids):
            raise PromptError(
                f"images[{index}]: stands at {image.start} to {end - 1}, expected places behind {behind - 1} and "
                f"before {len(request.prompt_ids)}, in order"
            )
        if image.pixels is None and image.features is None and image.prepare is None:
            raise PromptError(f"images[{index}]: it has neither pixels nor features")
        behind = end
