"""Text generation: feeding the prompt, choosing tokens one step at a time, and the calls a user makes on the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import paddle
from paddlenlp.generation import LogitsProcessorList
from paddlenlp.generation.logits_process import MinLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from ...engine.inputs import IdsLike, id_array, left_padding
from ...engine.options import GenerationOptions, resolve_options
from ...engine.sampler import row_generators
from ...engine.sampling import fetch_choice, greedy, sample
from ...engine.stopping import StopChecker, finish_reason
from ...errors import ConfigurationError, NumericalError, PromptError
from .image_placeholders import PlaceholderFormat
from .image_processing import load_images_of_ids
from .kv_cache import CACHE_BLOCK, KVCache, ntk_alpha

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig
    from paddlenlp.generation.streamers import BaseStreamer

    from ...media import ImagePolicy
    from .modeling import QWenLMHeadModel
    from .processing import QwenVLProcessor
    from .tokenization import QWenVLTokenizer


@dataclass(frozen=True)
class GenerationStep:
    """One new token of each row.

    Attributes:
        tokens: int64 ``[rows]``; the padding id in rows that were finished before.
        log_probs: float64 ``[rows]``, of the tokens before temperature, top-k and top-p; 0 in rows finished before.
        finished: bool ``[rows]``, with this step's stops.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    finished: np.ndarray


@dataclass(frozen=True)
class GeneratedRows:
    """All new tokens of each row.

    Attributes:
        tokens: int64 ``[rows, new_length]``, with the stop token, padded behind it.
        scores: float32 ``[rows]``, mean log probability of the row's tokens.
        finish_reasons: for each row why it ended, ``"stop"`` or ``"length"``.
        lengths: for each row its number of new tokens, without padding.
    """

    tokens: np.ndarray
    scores: np.ndarray
    finish_reasons: list[str]
    lengths: list[int]


class QWenVLGenerationMixin:
    """``generate``, ``chat`` and ``chat_stream``, mixed into :class:`QWenLMHeadModel`."""

    def generate(
        self,
        input_ids: IdsLike,
        generation_config: GenerationConfig | None = None,
        *,
        images: paddle.Tensor | None = None,
        image_features: paddle.Tensor | None = None,
        attention_mask: IdsLike | None = None,
        token_type_ids: IdsLike | None = None,
        past_key_values: KVCache | None = None,
        tokenizer: QWenVLTokenizer | None = None,
        streamer: BaseStreamer | None = None,
        logits_processor: LogitsProcessorList | Iterable | None = None,
        image_policy: ImagePolicy | None = None,
        **options: Any,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Continue each prompt.

        Args:
            input_ids: int ``[batch, length]``, shorter prompts padded on the left.
            generation_config: instead of the model's own (``generation_config.json``).
            images: float32 ``[n, 3, side, side]`` for the image placeholders, in order of appearance over the rows.
                Where neither these nor ``image_features`` are given, the images are read from the paths or
                URLs in the image placeholders.
            image_features: ``[n, n_queries, hidden]``, encoded images instead of ``images``.
            attention_mask: int ``[batch, length]``, zeros for padding; may be left out where no row is padded, or
                where the padding id cannot begin a prompt.
            token_type_ids: not used; the tokenizer returns them, as the original's does.
            past_key_values: a cache that holds a prefix of these prompts already; it is extended in place. The images
                in that prefix may be left out of ``images``.
            tokenizer: needed for ``stop_strings``; ids that it does not know are then never chosen.
            streamer: gets the new ids of each step, int64 ``[batch, 1]``, through ``put`` and a last call of ``end``;
                PaddleNLP's ``TextStreamer`` and ``TextIteratorStreamer`` are such.
            logits_processor: PaddleNLP's ``LogitsProcessor`` objects, called with all ids so far (padding replaced
                by the row's first id) and the logits, before the built-in ones.
            image_policy: what paths and URLs in the prompt may be read; ``ImagePolicy.scripts()`` by default.
            **options: the fields of :class:`GenerationOptions`.

        Returns:
            The new ids only, int64 ``[batch * num_return_sequences, new_length]``, with the stop token, padded
            behind it; and the mean log probability of each row's tokens, float32
            ``[batch * num_return_sequences]``. The answers to one prompt stand next to each other.

        Raises:
            ConfigurationError: an unknown or impossible option.
            PromptError: the prompts are malformed or leave no room in the model's window.
            ImageError: an image named in the prompt cannot be read.
            NumericalError: the model gave no numbers.
        """
        result = generate_rows(
            cast("QWenLMHeadModel", self), input_ids, generation_config, images=images, image_features=image_features,
            attention_mask=attention_mask, past_key_values=past_key_values, tokenizer=tokenizer, streamer=streamer,
            logits_processor=logits_processor, image_policy=image_policy, **options,
        )  # fmt: skip
        return paddle.to_tensor(result.tokens), paddle.to_tensor(result.scores)

    def chat(
        self,
        processor_or_tokenizer: QwenVLProcessor | QWenVLTokenizer,
        query: str,
        history: list[tuple[str, str]] | None = None,
        **arguments: Any,
    ) -> tuple[str, list[tuple[str, str]]]:
        """Answer a query as the original does; see :func:`.original_chat.chat` for the arguments."""
        from .original_chat import chat

        return chat(cast("QWenLMHeadModel", self), processor_or_tokenizer, query, history, **arguments)

    def chat_stream(
        self,
        processor_or_tokenizer: QwenVLProcessor | QWenVLTokenizer,
        query: str,
        history: list[tuple[str, str]] | None = None,
        **arguments: Any,
    ) -> Iterator[str]:
        """The answer so far, again and again as it grows; see :func:`.original_chat.chat_stream`."""
        from .original_chat import chat_stream

        return chat_stream(cast("QWenLMHeadModel", self), processor_or_tokenizer, query, history, **arguments)


@paddle.no_grad()
def generate_rows(
    model: QWenLMHeadModel,
    input_ids: IdsLike,
    generation_config: GenerationConfig | None = None,
    *,
    images: paddle.Tensor | None = None,
    image_features: paddle.Tensor | None = None,
    attention_mask: IdsLike | None = None,
    past_key_values: KVCache | None = None,
    tokenizer: QWenVLTokenizer | None = None,
    streamer: BaseStreamer | None = None,
    logits_processor: LogitsProcessorList | Iterable | None = None,
    image_policy: ImagePolicy | None = None,
    **options: Any,
) -> GeneratedRows:
    """What ``generate`` does, with the reason why each row ended. Arguments and errors are those of ``generate``."""
    ids = id_array(input_ids, model.config.vocab_size)
    resolved = resolve_options(model.generation_config, generation_config, options)
    past = 0 if past_key_values is None else past_key_values.length
    if images is None and image_features is None and (ids[:, past:] == model.config.visual.image_start_id).any():
        image_processor = getattr(tokenizer, "image_processor", None)
        images = load_images_of_ids(ids, model.config.visual, image_policy, image_processor)
    steps = generation_steps(
        model, ids, resolved, images, image_features, attention_mask, past_key_values, tokenizer, logits_processor
    )
    if streamer is not None and getattr(streamer, "skip_prompt", False):
        streamer.put(paddle.to_tensor(ids, place=paddle.CPUPlace()))
    tokens, log_probs, before = [], [], []
    finished = np.zeros(len(ids) * resolved.num_return_sequences, dtype=bool)
    for step in steps:
        before.append(finished)
        finished = step.finished
        tokens.append(step.tokens)
        log_probs.append(step.log_probs)
        if streamer is not None:
            streamer.put(paddle.to_tensor(step.tokens[:, None], place=paddle.CPUPlace()))
    if streamer is not None:
        streamer.end()
    counts = np.logical_not(np.stack(before)).sum(axis=0)
    scores = np.stack(log_probs).sum(axis=0) / counts
    reasons = [finish_reason(row) for row in finished]
    return GeneratedRows(np.stack(tokens, axis=1), scores.astype(np.float32), reasons, counts.tolist())


def generation_steps(
    model: QWenLMHeadModel,
    ids: np.ndarray,
    options: GenerationOptions,
    images: paddle.Tensor | None = None,
    image_features: paddle.Tensor | None = None,
    attention_mask: IdsLike | None = None,
    cache: KVCache | None = None,
    tokenizer: QWenVLTokenizer | None = None,
    logits_processor: LogitsProcessorList | Iterable | None = None,
) -> Iterator[GenerationStep]:
    """Generate step by step; everything is checked and the prompt is fed before the first step.

    Whoever stops asking stops the work: the last token that came out has not been fed. A given ``cache`` then holds
    the prompt and all tokens but that one. The arguments are those of ``generate``, with the ids as int64
    ``[batch, length]``.
    """
    with paddle.no_grad():
        mask = left_padding(ids, attention_mask, options)
        limit = _room(model, ids, options)
        rows = ids.shape[0] * options.num_return_sequences
        _check(model, rows, options, tokenizer)
        own_cache = cache is None
        if cache is None:
            capacity = ids.shape[1] + min(limit, CACHE_BLOCK)
            cache = model.new_cache(ids.shape[0], ids.shape[1], capacity)
        else:
            _check_cache(cache, ids, options, model)
        padding_mask = None if mask is None else paddle.to_tensor(mask)
        logits = _prefill(model, ids, padding_mask, images, image_features, cache, options.prefill_chunk_size)
        if options.num_return_sequences > 1:
            repeated = np.repeat(np.arange(ids.shape[0]), options.num_return_sequences)
            logits, padding_mask = _select_rows(repeated, cache, logits, padding_mask)
            ids, mask = ids[repeated], None if mask is None else mask[repeated]
    # Handed over to a generator only now, so that a mistake shows in the call and not at the first step.
    return _steps(model, ids, mask, padding_mask, logits, cache, own_cache, options, limit, tokenizer, logits_processor)


def _steps(
    model: QWenLMHeadModel,
    ids: np.ndarray,
    mask: np.ndarray | None,
    padding_mask: paddle.Tensor | None,
    logits: paddle.Tensor,
    cache: KVCache,
    own_cache: bool,
    options: GenerationOptions,
    limit: int,
    tokenizer: QWenVLTokenizer | None,
    logits_processor: LogitsProcessorList | Iterable | None,
) -> Iterator[GenerationStep]:
    rows = ids.shape[0]
    processors = _processors(options, ids.shape[1], model.config.vocab_size, logits_processor)
    seen = paddle.to_tensor(_without_padding(ids, mask)) if processors else None
    generators = row_generators(options.seed, rows) if options.do_sample else []
    stops = [
        StopChecker(options.eos_token_id, options.stop_token_sequences, options.stop_strings, tokenizer)
        for _ in range(rows)
    ]
    # The published embedding has more rows than there are tokens.
    known = model.config.vocab_size if tokenizer is None else tokenizer.vocab_size
    finished = np.zeros(rows, dtype=bool)
    batch = np.arange(rows)  # which row each row of the cache belongs to
    for count in range(1, limit + 1):
        with paddle.no_grad():
            logits = logits.astype("float32")
            if processors is not None and seen is not None:
                logits = processors(seen, logits)
            if known < logits.shape[1]:
                logits = logits[:, :known]
            if options.do_sample:
                uniforms = np.array([generators[row].random() for row in batch])
                chosen = sample(logits, uniforms, options.temperature, options.top_k, options.top_p)
            else:
                chosen = greedy(logits)
            new_tokens, new_log_probs = fetch_choice(logits, chosen)
        live = np.flatnonzero(~finished[batch])
        if np.isnan(new_log_probs[live]).any():
            raise NumericalError(
                f"logits: not a number at new token {count}; the weights or the images' pixels are damaged, or the "
                f"dtype {cache.keys[0].dtype} is too narrow for them"
            )
        tokens = np.full(rows, options.pad_token_id or 0, dtype=np.int64)
        log_probs = np.zeros(rows)
        tokens[batch[live]] = new_tokens[live]
        log_probs[batch[live]] = new_log_probs[live]
        finished = finished.copy()
        for row in batch[live]:
            finished[row] = stops[row].push(int(tokens[row]))
        yield GenerationStep(tokens, log_probs, finished)
        if finished.all() or count == limit:
            return
        with paddle.no_grad():
            if seen is not None:
                seen = paddle.concat([seen, chosen.unsqueeze(1)], axis=1)
            kept = np.flatnonzero(~finished[batch])
            # Dropping rows copies the cache, so it waits until half of the work would be for nothing.
            if own_cache and 2 * len(kept) <= len(batch):
                chosen, padding_mask = _select_rows(kept, cache, chosen, padding_mask)
                seen = None if seen is None else paddle.index_select(seen, paddle.to_tensor(kept), axis=0)
                batch = batch[kept]
            logits = _next_logits(model, model.transformer.embed(chosen.unsqueeze(1)), padding_mask, cache)


def _prefill(
    model: QWenLMHeadModel,
    ids: np.ndarray,
    padding_mask: paddle.Tensor | None,
    images: paddle.Tensor | None,
    image_features: paddle.Tensor | None,
    cache: KVCache,
    chunk: int,
) -> paddle.Tensor:
    """Feed the part of the prompt that the cache lacks; logits ``[batch, vocab]`` of the last position."""
    past = cache.length
    cache.reserve(ids.shape[1])
    wanted = PlaceholderFormat.of(model.config.visual).starts_from(ids, past)
    images, image_features = (_images(given, wanted) for given in (images, image_features))
    embeddings = model.transformer.embed(paddle.to_tensor(ids[:, past:]), images, image_features)
    length = embeddings.shape[1]
    step = chunk or length
    for start in range(0, length, step):
        part = embeddings[:, start : start + step]
        logits = _next_logits(model, part, padding_mask, cache)
    return logits


def _next_logits(
    model: QWenLMHeadModel, embeddings: paddle.Tensor, padding_mask: paddle.Tensor | None, cache: KVCache
) -> paddle.Tensor:
    """Feed ``[batch, length, hidden]`` and return the logits ``[batch, vocab]`` of the last position.

    Without the model's own ``forward``, whose output object takes longer than a layer of a small model.
    """
    hidden, _ = model.transformer(embeddings, padding_mask, None, cache)
    return model.lm_head(hidden[:, -1] if hidden.shape[1] > 1 else hidden.squeeze(1))


def _images(given: paddle.Tensor | None, wanted: np.ndarray) -> paddle.Tensor | None:
    """The images whose placeholders are still to be fed; ``None`` where there are none.

    ``given`` holds those alone, or the images of all placeholders.
    """
    if given is None:
        return None
    given = given if isinstance(given, paddle.Tensor) else paddle.to_tensor(given)
    if given.shape[0] == wanted.sum():
        return given if wanted.any() else None
    if given.shape[0] != len(wanted):
        raise PromptError(f"images: got {given.shape[0]} for {len(wanted)} <img> placeholder(s) in input_ids")
    if not wanted.any():
        return None
    return given[paddle.to_tensor(np.flatnonzero(wanted))]


def _processors(
    options: GenerationOptions, prompt_length: int, vocab_size: int, given: Iterable | None
) -> LogitsProcessorList | None:
    if isinstance(given, LogitsProcessorList):
        given = given._processors.values()  # a list in a list is not callable
    processors = list(given or ())
    if options.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if options.min_new_tokens:
        least = prompt_length + options.min_new_tokens
        processors += [MinLengthLogitsProcessor(least, stop) for stop in options.eos_token_id if stop < vocab_size]
    return LogitsProcessorList(processors) if processors else None


def _without_padding(ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Padding replaced by the row's first token, so that no processor counts it as said."""
    if mask is None:
        return ids
    first = ids[np.arange(len(ids)), mask.argmax(axis=1)]
    return np.where(mask, ids, first[:, None])


def _select_rows(
    rows: np.ndarray, cache: KVCache, tensor: paddle.Tensor, padding_mask: paddle.Tensor | None
) -> tuple[paddle.Tensor, paddle.Tensor | None]:
    index = paddle.to_tensor(rows)
    cache.select_rows(index)
    if padding_mask is not None:
        padding_mask = paddle.index_select(padding_mask, index, axis=0)
    return paddle.index_select(tensor, index, axis=0), padding_mask


def _room(model: QWenLMHeadModel, ids: np.ndarray, options: GenerationOptions) -> int:
    """New tokens that fit behind the prompt, up to ``max_new_tokens``."""
    window = model.config.max_position_embeddings
    if ids.shape[1] >= window:
        raise PromptError(
            f"input_ids: {ids.shape[1]} tokens leave no room in the model's window of {window}; shorten the prompt or "
            "send fewer images"
        )
    return min(options.max_new_tokens, window - ids.shape[1])


def _check(model: QWenLMHeadModel, rows: int, options: GenerationOptions, tokenizer: QWenVLTokenizer | None) -> None:
    if model.training:
        raise ConfigurationError("generate: the model is in training mode; call model.eval() first")
    if options.stop_strings and tokenizer is None:
        raise ConfigurationError("stop_strings: they need the tokenizer as well; pass tokenizer=")
    can_stop = options.eos_token_id or options.stop_token_sequences or options.stop_strings
    if rows > 1 and can_stop and options.pad_token_id is None:
        raise ConfigurationError("pad_token_id: several rows that may end at different lengths need one; pass it")


def _check_cache(cache: KVCache, ids: np.ndarray, options: GenerationOptions, model: QWenLMHeadModel) -> None:
    batch, length = ids.shape
    if options.num_return_sequences > 1:
        raise ConfigurationError("past_key_values: cannot be extended by several answers at once; leave it out")
    if cache.batch_size != batch or cache.length >= length:
        raise ConfigurationError(
            f"past_key_values: holds {cache.batch_size} row(s) of {cache.length} positions, expected {batch} row(s) "
            f"and fewer than the {length} positions of input_ids"
        )
    alpha = ntk_alpha(length, model.config)
    if cache.ntk_alpha != alpha:
        raise ConfigurationError(
            f"past_key_values: was made for NTK factor {cache.ntk_alpha:g}, but a prompt of {length} positions has "
            f"{alpha:g}; feed the whole prompt to a cache made for its length"
        )
