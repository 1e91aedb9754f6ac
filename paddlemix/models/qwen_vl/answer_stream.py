"""One answer of a model, as a stream of text, and the answer to a query of the original's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from ...engine.local import LocalEngine
from ...engine.options import GenerationOptions, resolve_options
from ...engine.request import Decoding, ImageInput, Output, Request
from ...engine.stopping import answer_end_ids
from ...errors import ConfigurationError
from ...utils.validation import check_integer
from .chat_template import DEFAULT_WINDOW, ChatWindow
from .image_placeholders import PlaceholderFormat
from .image_processing import load_images_of_ids
from .original_chat import History, make_context
from .runner import local_engine

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig

    from ...media import ImagePolicy
    from .modeling import QWenLMHeadModel
    from .processing import QwenVLProcessor
    from .tokenization import QWenVLTokenizer


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
    model: QWenLMHeadModel,
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
    """The answer to a query after a history of texts; see :meth:`.generation.QWenVLGenerationMixin.chat`."""
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
