"""One answer of a chat model, as a stream of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import paddle

from ...engine.detokenizer import IncrementalDecoder
from ...engine.inputs import id_array
from ...engine.options import GenerationOptions
from ...engine.stopping import LENGTH, STOP, answer_end_ids
from ...errors import ConfigurationError
from ...utils.validation import check_integer
from .chat_window import DEFAULT_WINDOW, ChatWindow
from .generation import generation_steps
from .kv_cache import KVCache

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig

    from .modeling import QWenLMHeadModel
    from .tokenization import QWenVLTokenizer


class AnswerStream:
    """The text of one answer, piece by piece as it is generated.

    The prompt is checked and fed when the object is made. Iterating generates; whoever stops iterating stops the work.

    Args:
        model: a chat model.
        tokenizer: which belongs to it.
        input_ids: the prompt.
        options: how to generate; the answer ends at the ids that end a ChatML message as well.
        images: as for ``generate``.
        image_features: as for ``generate``.
        cache: as for ``generate``.
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
        """Check the prompt and feed it."""
        if options.num_return_sequences > 1:
            raise ConfigurationError("num_return_sequences: a chat has one answer; use generate for several")
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._end_ids = answer_end_ids(options.eos_token_id, tokenizer)
        self._decoder = IncrementalDecoder(tokenizer, stop_strings=options.stop_strings, **decoding)
        # The decoder looks for the stop strings, so that the text is decoded once.
        options = replace(options, eos_token_id=self._end_ids, stop_strings=())
        ids = id_array([list(input_ids)], model.config.vocab_size)
        self._steps = generation_steps(model, ids, options, images, image_features, cache=cache, tokenizer=tokenizer)

    def __iter__(self) -> Iterator[str]:
        """Generate, and yield each new piece of text."""
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
