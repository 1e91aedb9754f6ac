"""``generate`` and ``chat``: the calls a user makes on the model, answered by the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import paddle
from paddlenlp.generation import LogitsProcessorList

from ...engine.inputs import IdsLike, id_array, left_padding
from ...engine.local import Answer
from ...engine.options import GenerationOptions, resolve_options
from ...engine.request import Decoding, FinishReason, ImageInput, LogitsHook, Request
from ...errors import ConfigurationError, PromptError
from .answer_stream import answer_query, image_inputs
from .chat_template import DEFAULT_SYSTEM
from .image_placeholders import PlaceholderFormat
from .image_processing import load_images_of_ids
from .original_chat import History
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
        history: History | None = None,
        system: str = DEFAULT_SYSTEM,
        append_history: bool = True,
        stop_words_ids: Sequence[Sequence[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        image_policy: ImagePolicy | None = None,
        **options: Any,
    ) -> tuple[str, History]:
        """Answer ``query`` after ``history``, as the original does.

        Images are named in the queries, as ``from_list_format`` writes them, and read on every call; a
        :class:`ChatSession` keeps them. Queries are trusted: tags in them are read. Out of answers and the system text
        only the tags of references and boxes are. Unlike the original, the caller's lists stay as they are, and no
        token is lost at ``max_new_tokens``.

        Args:
            processor_or_tokenizer: which belongs to the model.
            query: the question, ``<img>path</img>`` for an image.
            history: earlier ``(query, response)`` pairs.
            system: the system message.
            append_history: whether the returned history holds this turn.
            stop_words_ids: further runs of tokens that end the answer and, as in the original, stay in it. The option
                ``stop_strings`` cuts its texts off.
            generation_config: instead of the model's own.
            image_policy: which paths and URLs may be read; ``ImagePolicy.scripts()`` by default.
            **options: the fields of :class:`GenerationOptions`.

        Returns:
            The answer, stripped of surrounding space, and a new history.

        Raises:
            ConfigurationError: the model's chat format is not ChatML, or an option is unknown or impossible.
            PromptError, ImageError, NumericalError: as ``generate``.
        """
        history = [] if history is None else history
        pieces = answer_query(
            cast("QWenLMHeadModel", self), processor_or_tokenizer, query, history, system, stop_words_ids,
            generation_config, image_policy, options, Decoding(skip_special_tokens=False, errors=None),
        )  # fmt: skip
        response = "".join(pieces).strip()
        return response, [*history, (query, response)] if append_history else list(history)

    def chat_stream(
        self,
        processor_or_tokenizer: QwenVLProcessor | QWenVLTokenizer,
        query: str,
        history: History | None = None,
        system: str = DEFAULT_SYSTEM,
        stop_words_ids: Sequence[Sequence[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        image_policy: ImagePolicy | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Like :meth:`chat`, but yields the whole answer so far each time it grows, with its tags.

        Mistakes raise in the call itself. An unclosed tag is text. There is no new history.
        """
        pieces = answer_query(
            cast("QWenLMHeadModel", self), processor_or_tokenizer, query, history or [], system, stop_words_ids,
            generation_config, image_policy, options, Decoding(errors="ignore"),
        )  # fmt: skip
        return _grown(pieces)


def _grown(pieces: Iterable[str]) -> Iterator[str]:
    text = ""
    for piece in pieces:
        text += piece
        yield text


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
    placed = _placed(PlaceholderFormat.of(model.config.visual), prompts, images, image_features)
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
    return GeneratedRows(tokens, scores, [row.finish_reason or FinishReason.LENGTH.value for row in rows], lengths)


def _placed(
    placeholder: PlaceholderFormat,
    prompts: Sequence[list[int]],
    images: paddle.Tensor | None,
    image_features: paddle.Tensor | None,
) -> list[tuple[ImageInput, ...]]:
    """The images of each prompt."""
    if images is not None and image_features is not None:
        raise PromptError("images, image_features: give one of them, not both")
    if images is None and image_features is None:
        return [() for _ in prompts]
    given = image_inputs(images, image_features)
    counts = [len(placeholder.starts(prompt)) for prompt in prompts]
    if len(given) != sum(counts):
        raise PromptError(f"images: got {len(given)} for {sum(counts)} <img> placeholder(s) in input_ids")
    ends = np.cumsum(counts)
    return [placeholder.place(prompt, given[end - count : end]) for prompt, count, end in zip(prompts, counts, ends)]


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
