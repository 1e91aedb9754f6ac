"""The original's chat calls: a query and a history of texts, in which ``<img>path</img>`` stands for an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from ...engine.detokenizer import IncrementalDecoder
from ...engine.options import GenerationOptions, resolve_options
from ...engine.stopping import LENGTH, STOP, answer_end_ids
from ...errors import ConfigurationError, PromptError
from ...utils.validation import check_integer
from .chat_template import DEFAULT_SYSTEM, make_context
from .chat_window import DEFAULT_WINDOW, ChatWindow
from .generation import generation_steps
from .image_inputs import id_array, load_images_of_ids
from .kv_cache import KVCache

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig

    from ...media import ImagePolicy
    from .modeling import QWenLMHeadModel
    from .processing import QwenVLProcessor
    from .tokenization import QWenVLTokenizer

History = list[tuple[str, str]]


class AnswerStream:
    """The text of one answer, piece by piece as it is generated.

    The prompt is checked and fed when the object is made. Iterating generates; whoever stops iterating stops the work.

    Args:
        model, tokenizer: which belong together.
        input_ids: the prompt.
        options: how to generate; the answer ends at the ids that end a ChatML message as well.
        images, image_features, cache: as for ``generate``.
        **decoding: as for :class:`IncrementalDecoder`.

    Attributes:
        tokens: the new ids so far, the stop token included.
        finish_reason: ``"stop"`` or ``"length"`` once the answer is complete, ``None`` before.
    """

    def __init__(
        self,
        model: QWenLMHeadModel,
        tokenizer: QWenVLTokenizer,
        input_ids: Sequence[int],
        options: GenerationOptions,
        *,
        images: paddle.Tensor | None = None,
        image_features: paddle.Tensor | None = None,
        cache: KVCache | None = None,
        **decoding: Any,
    ) -> None:
        if options.num_return_sequences > 1:
            raise ConfigurationError("num_return_sequences: a chat has one answer; use generate for several")
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._end_ids = answer_end_ids(options.eos_token_id, tokenizer)
        self._decoder = IncrementalDecoder(tokenizer, stop_strings=options.stop_strings, **decoding)
        # The decoder looks for the stop strings, so that the text is decoded once.
        options = replace(options, eos_token_id=self._end_ids, stop_strings=())
        ids = id_array([list(input_ids)], model.config)
        self._steps = generation_steps(model, ids, options, images, image_features, cache=cache, tokenizer=tokenizer)

    def __iter__(self) -> Iterator[str]:
        for step in self._steps:
            token = int(step.tokens[0])
            self.tokens.append(token)
            piece = "" if token in self._end_ids else self._decoder.push(token)
            if self._decoder.stopped_by is not None or step.finished[0]:
                self.finish_reason = STOP
            if piece:
                yield piece
            if self.finish_reason is not None:
                break
        else:
            self.finish_reason = LENGTH
        rest = self._decoder.finish()
        if rest:
            yield rest


def chat(
    model: QWenLMHeadModel,
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
    """Answer ``query`` after ``history``.

    Images are named in the queries, as ``from_list_format`` writes them, and read on every call; a
    :class:`ChatSession` keeps them. Queries are trusted: tags in them are read. Out of answers and the system text only
    the tags of references and boxes are. Unlike the original, the caller's lists stay as they are, and no token is lost
    at ``max_new_tokens``.

    Args:
        history: earlier ``(query, response)`` pairs.
        system: the system message.
        append_history: whether the returned history holds this turn.
        stop_words_ids: further runs of tokens that end the answer and, as in the original, stay in it. The option
            ``stop_strings`` cuts its texts off.
        generation_config: instead of the model's own.
        image_policy: which paths and addresses may be read; ``ImagePolicy.scripts()`` by default.
        **options: the fields of :class:`GenerationOptions`.

    Returns:
        The answer, stripped of surrounding space, and a new history.

    Raises:
        ConfigurationError: the model's chat format is not ChatML, or an option is unknown or impossible.
        PromptError, ImageError, NumericalError: as ``generate``.
    """
    history = [] if history is None else history
    answer = _answer(
        model, processor_or_tokenizer, query, history, system, stop_words_ids, generation_config, image_policy,
        options, skip_special_tokens=False,
    )  # fmt: skip
    response = "".join(answer).strip()
    return response, [*history, (query, response)] if append_history else list(history)


def chat_stream(
    model: QWenLMHeadModel,
    processor_or_tokenizer: QwenVLProcessor | QWenVLTokenizer,
    query: str,
    history: History | None = None,
    system: str = DEFAULT_SYSTEM,
    stop_words_ids: Sequence[Sequence[int]] | None = None,
    generation_config: GenerationConfig | None = None,
    image_policy: ImagePolicy | None = None,
    **options: Any,
) -> Iterator[str]:
    """Like :func:`chat`, but yields the whole answer so far each time it grows, with its tags; there is no new history.

    Mistakes raise in the call itself. An unclosed tag is text.
    """
    answer = _answer(
        model, processor_or_tokenizer, query, history or [], system, stop_words_ids, generation_config, image_policy,
        options, errors="ignore",
    )  # fmt: skip
    return _cumulative(answer)


def chat_settings(model: QWenLMHeadModel, generation_config: GenerationConfig | None = None) -> ChatWindow:
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


def _answer(
    model: QWenLMHeadModel,
    processor_or_tokenizer: QwenVLProcessor | QWenVLTokenizer,
    query: str,
    history: History,
    system: str,
    stop_words_ids: Sequence[Sequence[int]] | None,
    generation_config: GenerationConfig | None,
    image_policy: ImagePolicy | None,
    options: dict[str, Any],
    **decoding: Any,
) -> AnswerStream:
    window = chat_settings(model, generation_config)
    if not isinstance(history, (list, tuple)):
        raise PromptError(f"history: got {type(history).__name__}, expected a list of pairs of query and response")
    for index, turn in enumerate(history):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise PromptError(f"history[{index}]: got {turn!r:.80}, expected a pair of query and response")
    if stop_words_ids:
        options = {**options, "stop_token_sequences": [*stop_words_ids, *(options.get("stop_token_sequences") or ())]}
    resolved = resolve_options(model.generation_config, generation_config, options)
    tokenizer = getattr(processor_or_tokenizer, "tokenizer", processor_or_tokenizer)
    image_processor = getattr(processor_or_tokenizer, "image_processor", None)
    _, input_ids = make_context(
        tokenizer, query, history, system, window.size, "chatml", max_window_images=window.images, keep_last_image=True
    )
    visual = model.config.visual
    images = None
    if visual.image_start_id in input_ids:
        images = load_images_of_ids(np.array([input_ids]), visual, image_policy, image_processor)
    return AnswerStream(model, tokenizer, input_ids, resolved, images=images, **decoding)


def _cumulative(pieces: AnswerStream) -> Iterator[str]:
    text = ""
    for piece in pieces:
        text += piece
        yield text
