"""Answers of a model: ``generate`` for rows of ids, and one answer as a stream of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddlenlp.generation import LogitsProcessorList

from ...engine.inputs import IdsLike, id_array, left_padding
from ...engine.local import Answer, LocalEngine
from ...engine.options import GenerationOptions, resolve_options
from ...engine.request import Decoding, FinishReason, ImageInput, LogitsHook, Output, Request
from ...engine.stopping import answer_end_ids
from ...errors import ConfigurationError, PromptError
from ...utils.validation import check_integer
from .causal_lm import QWenCausalLM
from .chat_template import DEFAULT_WINDOW, ChatWindow
from .image_placeholders import PlaceholderFormat
from .image_processing import load_images_of_ids
from .original_chat import History, make_context
from .runner import LOCAL_BLOCK, local_engine

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig
    from paddlenlp.generation.streamers import BaseStreamer

    from ...media import ImagePolicy
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


@paddle.no_grad()
def generate_rows(
    model: QWenCausalLM,
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


class AnswerStream:
    """The text of one answer, piece by piece as it is generated.

    The prompt is checked and computed when the object is made. Iterating generates; whoever stops iterating stops the
    work, and whoever is not going to iterate calls ``close``.

    Args:
        engine: computes it.
        tokenizer: which belongs to the model.
        input_ids: the prompt.
        options: how to generate; the answer ends at the ids that end a ChatML message as well.
        images: of the prompt.
        decoding: how ids become text; by default without control tokens, and with the tokenizer's policy of errors.
        salt: prompts of other salts share no cached prefix with this one.

    Attributes:
        tokens: the new ids so far, the stop token included.
        finish_reason: ``"stop"`` or ``"length"`` once the answer is complete, ``None`` before.
        cached_tokens: ids of the prompt that a cached prefix spared.
    """

    def __init__(
        self,
        engine: LocalEngine,
        tokenizer: QWenVLTokenizer,
        input_ids: Sequence[int],
        options: GenerationOptions,
        *,
        images: Sequence[ImageInput] = (),
        decoding: Decoding | None = None,
        salt: bytes = b"",
    ) -> None:
        """Check the prompt and compute it."""
        if options.num_return_sequences > 1:
            raise ConfigurationError("num_return_sequences: a chat has one answer; use generate for several")
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._engine = engine
        self._id = engine.new_id()
        engine.add(
            Request(
                self._id,
                tuple(input_ids),
                tuple(images),
                options.sampling_params(stop_token_ids=answer_end_ids(options.eos_token_id, tokenizer)),
                salt=salt,
                decoding=Decoding(errors=None) if decoding is None else decoding,
                prefill_chunk_size=options.prefill_chunk_size or None,
            )
        )
        try:
            self._first = engine.next(self._id)
        except BaseException:  # an interruption included
            self.close()
            raise
        self.cached_tokens = self._first.cached_tokens

    def __iter__(self) -> Iterator[str]:
        """Generate, and yield each new piece of text."""
        try:
            output = self._first
            while True:
                self._note(output)
                if output.text:
                    yield output.text
                if self.finish_reason is not None:
                    return
                output = self._engine.next(self._id)
        finally:
            self.close()

    def close(self) -> None:
        """Break the answer off, if it is not complete."""
        if self.finish_reason is None:
            self._engine.abandon(self._id)

    def _note(self, output: Output) -> None:
        self.tokens += output.token_ids
        if output.finish_reason is not None:
            self.finish_reason = output.finish_reason.value


def answer_query(
    model: QWenCausalLM,
    processor_or_tokenizer: QwenVLProcessor | QWenVLTokenizer,
    query: str,
    history: History,
    system: str,
    stop_words_ids: Sequence[Sequence[int]] | None,
    generation_config: GenerationConfig | None,
    image_policy: ImagePolicy | None,
    options: dict[str, Any],
    decoding: Decoding,
) -> AnswerStream:
    """The answer to a query after a history of texts; see :meth:`.modeling.QWenLMHeadModel.chat`."""
    window = chat_settings(model, generation_config)
    if stop_words_ids:
        options = {**options, "stop_token_sequences": [*stop_words_ids, *(options.get("stop_token_sequences") or ())]}
    resolved = resolve_options(model.generation_config, generation_config, options)
    given: Any = processor_or_tokenizer
    tokenizer: QWenVLTokenizer = getattr(given, "tokenizer", given)
    _, input_ids = make_context(
        tokenizer, query, history, system, window.size, "chatml", max_window_images=window.images, keep_last_image=True
    )
    visual = model.config.visual
    images = None
    if visual.image_start_id in input_ids:
        image_processor = getattr(given, "image_processor", None)
        images = load_images_of_ids(np.array([input_ids]), visual, image_policy, image_processor)
    placed = PlaceholderFormat.of(visual).place(input_ids, image_inputs(images))
    engine = LocalEngine(local_engine(model, tokenizer, positions=model.config.max_position_embeddings), paddle.no_grad)
    return AnswerStream(engine, tokenizer, input_ids, resolved, images=placed, decoding=decoding)


def image_inputs(images: paddle.Tensor | None, image_features: paddle.Tensor | None = None) -> list[ImageInput]:
    """Images for an engine that sees no others; where they stand is to be filled in.

    Args:
        images: float ``[n, 3, side, side]``.
        image_features: ``[n, n_queries, hidden]`` instead.
    """
    given = image_features if images is None else images
    if given is None:
        return []
    name = "features" if images is None else "pixels"
    arrays = (given if isinstance(given, paddle.Tensor) else paddle.to_tensor(given)).astype("float32").numpy()
    return [ImageInput(0, str(index).encode(), **{name: array}) for index, array in enumerate(arrays)]


def chat_settings(model: QWenCausalLM, generation_config: GenerationConfig | None = None) -> ChatWindow:
    """Check that the model chats in ChatML; return how much of a conversation it is shown.

    ``max_window_size`` and ``max_window_images`` of the generation config say so, the latter a field of our own.

    Raises:
        ConfigurationError: the generation config names another chat format, or a window that cannot be.
    """
    config = model.generation_config if generation_config is None else generation_config
    chat_format = getattr(config, "chat_format", "chatml")
    if chat_format != "chatml":
        raise ConfigurationError(
            f"chat_format: the generation config says {chat_format!r}, so this is a base model that knows no chat; "
            "use generate, or set model.generation_config.chat_format = 'chatml'"
        )
    images = getattr(config, "max_window_images", None)
    if images is not None:
        check_integer("max_window_images", images, least=0)
    return ChatWindow(getattr(config, "max_window_size", None) or DEFAULT_WINDOW, images)
