"""``generate`` and ``chat``: the calls a user makes on the model, answered by the engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import paddle
from paddlenlp.generation import LogitsProcessorList

from ...engine.inputs import IdsLike, id_array, left_padding
from ...engine.local import Answer
from ...engine.options import GenerationOptions, resolve_options
from ...engine.request import ImageInput, LogitsHook, Request
from ...engine.stopping import LENGTH
from ...errors import ConfigurationError, PromptError
from .image_placeholders import PlaceholderFormat
from .image_processing import load_images_of_ids
from .runner import LOCAL_BLOCK, local_engine

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig
    from paddlenlp.generation.streamers import BaseStreamer

    from ...media import ImagePolicy
    from .modeling import QWenLMHeadModel
    from .processing import QwenVLProcessor
    from .tokenization import QWenVLTokenizer


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
        past_key_values: None = None,
        tokenizer: QWenVLTokenizer | None = None,
        streamer: BaseStreamer | None = None,
        logits_processor: LogitsProcessorList | Iterable | None = None,
        image_policy: ImagePolicy | None = None,
        **options: Any,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Continue each prompt.

        Args:
            input_ids: int ``[batch, length]``, shorter prompts padded on the left. The padding is taken off: each row
                is answered as it is alone.
            generation_config: instead of the model's own (``generation_config.json``).
            images: float32 ``[n, 3, side, side]`` for the image placeholders, in order of appearance over the rows.
                Where neither these nor ``image_features`` are given, the images are read from the paths or
                URLs in the image placeholders.
            image_features: ``[n, n_queries, hidden]``, encoded images instead of ``images``.
            attention_mask: int ``[batch, length]``, zeros for padding; may be left out where no row is padded, or
                where the padding id cannot begin a prompt.
            token_type_ids: not used; the tokenizer returns them, as the original's does.
            past_key_values: refused; a :class:`ChatSession` computes no prefix twice.
            tokenizer: needed for ``stop_strings``; ids that it does not know are then never chosen.
            streamer: gets the new ids of each step, int64 ``[batch, 1]``, through ``put`` and a last call of ``end``;
                PaddleNLP's ``TextStreamer`` and ``TextIteratorStreamer`` are such.
            logits_processor: PaddleNLP's ``LogitsProcessor`` objects, called for each row alone with all its ids so
                far, ``[1, length]``, and its logits, ``[1, vocab]``, before anything else is done to them.
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
        if past_key_values is not None:
            raise ConfigurationError(
                "past_key_values: generate computes its prompts itself; a ChatSession computes no prefix twice, and "
                "model(input_ids, past_key_values=...) takes a cache"
            )
        result = generate_rows(
            cast("QWenLMHeadModel", self), input_ids, generation_config, images=images, image_features=image_features,
            attention_mask=attention_mask, tokenizer=tokenizer, streamer=streamer, logits_processor=logits_processor,
            image_policy=image_policy, **options,
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
    tokenizer: QWenVLTokenizer | None = None,
    streamer: BaseStreamer | None = None,
    logits_processor: LogitsProcessorList | Iterable | None = None,
    image_policy: ImagePolicy | None = None,
    **options: Any,
) -> GeneratedRows:
    """What ``generate`` does, with the reason why each row ended. Arguments and errors are those of ``generate``."""
    ids = id_array(input_ids, model.config.vocab_size)
    resolved = resolve_options(model.generation_config, generation_config, options)
    mask = left_padding(ids, attention_mask, resolved)
    _check(len(ids) * resolved.num_return_sequences, resolved, tokenizer)
    if images is None and image_features is None and (ids == model.config.visual.image_start_id).any():
        image_processor = getattr(tokenizer, "image_processor", None)
        images = load_images_of_ids(ids, model.config.visual, image_policy, image_processor)
    prompts = [row.tolist() if mask is None else row[mask[index]].tolist() for index, row in enumerate(ids)]
    placed = place_images(PlaceholderFormat.of(model.config.visual), prompts, images, image_features)
    requests = _requests(prompts, placed, resolved, None if logits_processor is None else _hook(logits_processor))
    engine = local_engine(
        model,
        tokenizer,
        has_text=bool(resolved.stop_strings),
        positions=sum(len(prompt) for prompt in prompts) + len(requests) * (resolved.max_new_tokens + LOCAL_BLOCK),
        feature_images=sum(map(len, placed)) if resolved.num_return_sequences > 1 else 0,
    )
    for request in requests:
        engine.add(request)
    if streamer is not None and getattr(streamer, "skip_prompt", False):
        streamer.put(paddle.to_tensor(ids, place=paddle.CPUPlace()))
    rows = [Answer() for _ in requests]
    pad = resolved.pad_token_id or 0
    streamed = 0
    while engine.has_work():
        for output in engine.step():
            rows[int(output.request_id)].extend(output)
        if streamer is not None:
            streamed = _stream(rows, streamed, pad, streamer)
    if streamer is not None:
        streamer.end()
    return _generated(rows, pad)


def _stream(rows: Sequence[Answer], done: int, pad: int, streamer: BaseStreamer) -> int:
    """Give out the steps from ``done`` on that all rows have reached, or would have if they had not ended."""
    going_on = [len(row.tokens) for row in rows if row.finish_reason is None]
    reached = min(going_on) if going_on else max(len(row.tokens) for row in rows)
    for step in range(done, reached):
        tokens = [[row.tokens[step] if step < len(row.tokens) else pad] for row in rows]
        streamer.put(paddle.to_tensor(tokens, dtype="int64", place=paddle.CPUPlace()))
    return reached


def _generated(rows: Sequence[Answer], pad: int) -> GeneratedRows:
    lengths = [len(row.tokens) for row in rows]
    tokens = np.full([len(rows), max(lengths)], pad, dtype=np.int64)
    for padded, row in zip(tokens, rows):
        padded[: len(row.tokens)] = row.tokens
    scores = np.array([np.mean(row.log_probs) for row in rows], dtype=np.float32)
    return GeneratedRows(tokens, scores, [row.finish_reason or LENGTH for row in rows], lengths)


def place_images(
    placeholder: PlaceholderFormat,
    prompts: Sequence[list[int]],
    images: paddle.Tensor | None,
    image_features: paddle.Tensor | None,
) -> list[tuple[ImageInput, ...]]:
    """The images of each prompt, for the engine.

    Args:
        placeholder: of the model.
        prompts: ids.
        images: float32 ``[n, 3, side, side]``, in order of appearance over the prompts.
        image_features: ``[n, n_queries, hidden]``, instead of ``images``.

    Raises:
        PromptError: a placeholder is cut, both are given, or there are not as many images as placeholders.
    """
    tensor = image_features if images is None else images
    if tensor is None:
        return [() for _ in prompts]
    if images is not None and image_features is not None:
        raise PromptError("images, image_features: give one of them, not both")
    starts = [placeholder.indices(np.array([prompt]))[:, 0].tolist() for prompt in prompts]
    given = (tensor if isinstance(tensor, paddle.Tensor) else paddle.to_tensor(tensor)).astype("float32").numpy()
    count = sum(map(len, starts))
    if len(given) != count:
        raise PromptError(f"images: got {len(given)} for {count} <img> placeholder(s) in input_ids")
    remaining = enumerate(given)
    name = "pixels" if image_features is None else "features"
    return [
        tuple(
            ImageInput(start, str(index).encode(), **{name: array})
            for start, (index, array) in zip(row_starts, remaining)
        )
        for row_starts in starts
    ]


def place_sources(
    placeholder: PlaceholderFormat, ids: Sequence[int], sources: Sequence[Any], prepare: Callable[[Any], np.ndarray]
) -> tuple[ImageInput, ...]:
    """The images of a prompt, which are prepared when the engine comes to them.

    Args:
        placeholder: of the model.
        ids: the prompt.
        sources: in order; an engine encodes the same one once, so they must not change while it lives.
        prepare: makes pixels of one, float32 ``[3, side, side]``.
    """
    starts = placeholder.indices(np.array([ids]))[:, 0].tolist()
    return tuple(
        ImageInput(start, _source_key(source), prepare=partial(prepare, source))
        for start, source in zip(starts, sources)
    )


def _source_key(source: Any) -> bytes:
    """Names a source among those that are alive."""
    return (f"path {os.fspath(source)}" if isinstance(source, (str, os.PathLike)) else f"object {id(source)}").encode()


def _requests(
    prompts: Sequence[list[int]],
    images: Sequence[tuple[ImageInput, ...]],
    options: GenerationOptions,
    hook: LogitsHook | None,
) -> list[Request]:
    """A request for each answer: their ids are the numbers of the rows."""
    count = options.num_return_sequences
    return [
        Request(
            str(row),
            tuple(prompts[row // count]),
            images[row // count],
            options.sampling_params(seed_index=row, logprobs=0),
            prefill_chunk_size=options.prefill_chunk_size or None,
            logits_hook=hook,
        )
        for row in range(len(prompts) * count)
    ]


def _hook(processors: LogitsProcessorList | Iterable) -> LogitsHook:
    """PaddleNLP's processors for the engine, which calls them for each row alone."""
    if not isinstance(processors, LogitsProcessorList):
        processors = LogitsProcessorList(list(processors))

    def hook(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return processors(paddle.to_tensor(ids[None]), paddle.to_tensor(logits[None])).astype("float32").numpy()[0]

    return hook


def _check(rows: int, options: GenerationOptions, tokenizer: QWenVLTokenizer | None) -> None:
    if options.stop_strings and tokenizer is None:
        raise ConfigurationError("stop_strings: they need the tokenizer as well; pass tokenizer=")
    can_stop = options.eos_token_id or options.stop_token_sequences or options.stop_strings
    if rows > 1 and can_stop and options.pad_token_id is None:
        raise ConfigurationError("pad_token_id: several rows that may end at different lengths need one; pass it")
