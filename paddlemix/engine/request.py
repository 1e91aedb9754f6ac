"""What goes into the engine and what comes out of it: plain values and NumPy arrays, never tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from ..errors import PaddleMixError

LogitsHook = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From all ids of a row, int64 ``[length]``, and its logits, float32 ``[vocab]``, to other logits."""


class FinishReason(str, Enum):
    """Why a request ended."""

    STOP = "stop"
    """A stop id, sequence or string, or a grammar that is complete."""
    LENGTH = "length"
    """``max_tokens``, the model's window, or a cache that can hold no more."""
    ABORT = "abort"
    """The client asked for it."""
    DEADLINE = "deadline"
    """``Request.deadline`` passed."""
    ERROR = "error"
    """See ``Output.error``."""


@dataclass(frozen=True)
class ImageInput:
    """An image of a prompt.

    One of ``pixels``, ``features`` and ``prepare`` is given.

    Attributes:
        start: index of its first placeholder in the prompt's ids.
        key: a hash of everything that decides its features (pixels and preparation), computed by the server and never
            taken from a client.
        pixels: float32 ``[3, side, side]``, as the image processor makes them.
        features: float32 ``[n_queries, hidden]``, where the image is encoded already; ``pixels`` are then not read.
        prepare: for callers in the same process; makes ``pixels`` when they are needed, and not where the features are
            known or the prefix is cached.
    """

    start: int
    key: bytes
    pixels: np.ndarray | None = field(default=None, repr=False, compare=False)
    features: np.ndarray | None = field(default=None, repr=False, compare=False)
    prepare: Callable[[], np.ndarray] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop.

    Attributes:
        max_tokens: most tokens to generate; ``None`` for what the window leaves, to which it is always cut.
        min_tokens: so many tokens come before a stop id may.
        temperature: 0 takes the most likely token.
        top_k: draw from so many most likely tokens; 0 for all.
        top_p: then from the fewest that together reach this probability; 1 for all.
        min_p: then from those at least so likely as this share of the likeliest; 0 for all.
        repetition_penalty: divides (multiplies, where negative) the logits of all ids seen, the prompt's included.
        presence_penalty: taken off the logits of the ids generated so far.
        frequency_penalty: taken off as often as an id was generated.
        logit_bias: added to the logits of these ids.
        logprobs: with every token also so many most likely alternatives; ``None``: no log probabilities at all.
        seed: of the drawing; ``None`` for a new one.
        seed_index: which of the rows that share ``seed``: the answers to one request with ``n`` > 1.
        stop_token_ids: each ends the answer.
        stop_sequences: runs of ids that end the answer.
        stop_strings: texts that end the answer; neither they nor what follows is in its text.
        prompt_lookup_num_tokens: propose up to so many tokens (7 at most) that followed the latest ones earlier in the
            prompt or answer, and check them in one pass. The answer does not change.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    seed: int | None = None
    seed_index: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()
    stop_strings: tuple[str, ...] = ()
    prompt_lookup_num_tokens: int = 0


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like.

    Attributes:
        kind: ``"json_schema"``, ``"json_object"``, ``"regex"``, ``"lark"``, ``"choice"`` or ``"grounding"`` (references
            and boxes alone).
        source: the schema as JSON text, the expression, the grammar, or the choices as a JSON list; empty otherwise.
    """

    kind: str
    source: str = ""


@dataclass(frozen=True)
class Decoding:
    """How the ids of an answer become its text; see :class:`.detokenizer.IncrementalDecoder`.

    Attributes:
        skip_special_tokens: leave the control tokens of the chat out.
        keep_image_special: but not the tags of references and boxes.
        errors: policy for bytes that are not UTF-8; ``None``: the tokenizer's.
    """

    skip_special_tokens: bool = True
    keep_image_special: bool = True
    errors: str | None = "replace"


@dataclass(frozen=True)
class Request:
    """One answer that is wanted. Whoever wants several to one prompt submits several.

    Attributes:
        id: unique among the requests that are not finished.
        prompt_ids: with the placeholders of the images in their places.
        images: in order of appearance.
        sampling: how to choose tokens and when to stop.
        grammar: ``None`` for free text.
        deadline: ``time.monotonic()`` at which the request ends, whatever its state.
        salt: requests share cached prefixes with those of the same salt only.
        decoding: how ids become text.
        prefill_chunk_size: most positions of the prompt computed at once; ``None``: as the engine does.
        logits_hook: for callers in the same process; called with the row's logits before anything else.
    """

    id: str
    prompt_ids: tuple[int, ...]
    images: tuple[ImageInput, ...] = ()
    sampling: SamplingParams = SamplingParams()
    grammar: Grammar | None = None
    deadline: float | None = None
    salt: bytes = b""
    decoding: Decoding = Decoding()
    prefill_chunk_size: int | None = None
    logits_hook: LogitsHook | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A generated id with its log probability, before temperature, top-k, top-p and min-p.

    Attributes:
        top: the most likely ids with theirs, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Output:
    """What one step brought for one request; the last of a request has a ``finish_reason``.

    Attributes:
        request_id: whose it is.
        token_ids: new ids, the stop id included; more than one where proposals were accepted.
        text: what they complete, never half a character, stop strings held back.
        logprobs: one for each of ``token_ids``, if asked for.
        prompt_tokens: of the whole prompt, images included.
        cached_tokens: of these, those that a cached prefix spared.
        completion_tokens: ids generated so far.
        finish_reason: ``None`` while the request goes on.
        stop_string: the stop string that was met.
        error: with ``FinishReason.ERROR``, why.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    error: PaddleMixError | None = None


@dataclass(frozen=True)
class EngineStats:
    """Numbers of the moment, and totals since the start.

    Attributes:
        running, waiting: requests that are past and before the end of their prompt.
        blocks_free, blocks_cached, blocks_owned: they add up to all blocks; cached are those that only a later request
            with the same prefix would need.
        prefix_queries, prefix_hits: prompt tokens looked up in the prefix cache, and found there.
        image_queries, image_hits: images looked up in the feature cache, and found there.
        vision_seconds: spent encoding images.
        prompt_tokens, generation_tokens: totals.
        preemptions: rows that had to give up their blocks and be computed again.
        finished: requests that ended, by the value of their finish reason.
        steps: of the engine.
        failures: steps in a row that raised something.
    """

    running: int = 0
    waiting: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0
    blocks_owned: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    image_queries: int = 0
    image_hits: int = 0
    vision_seconds: float = 0.0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    finished: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    failures: int = 0
