"""The class that users load: the network with loading and saving, ``generate``, ``chat`` and ``chat_stream``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import paddle

from ...engine.inputs import IdsLike
from ...engine.request import Decoding
from ...errors import ConfigurationError
from .causal_lm import QWenCausalLM
from .chat_template import DEFAULT_SYSTEM
from .generation import answer_query, generate_rows
from .original_chat import History
from .pretrained import QWenVLCheckpointMixin

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig, LogitsProcessorList
    from paddlenlp.generation.streamers import BaseStreamer

    from ...media import ImagePolicy
    from .processing import QwenVLProcessor
    from .tokenization import QWenVLTokenizer


class QWenLMHeadModel(QWenVLCheckpointMixin, QWenCausalLM):
    """Qwen-VL with its language-model head: the class to load, call, chat with, train and save."""

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
            self, input_ids, generation_config, images=images, image_features=image_features,
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
            self, processor_or_tokenizer, query, history, system, stop_words_ids,
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
            self, processor_or_tokenizer, query, history or [], system, stop_words_ids,
            generation_config, image_policy, options, Decoding(errors="ignore"),
        )  # fmt: skip
        return _grown(pieces)


def _grown(pieces: Iterable[str]) -> Iterator[str]:
    text = ""
    for piece in pieces:
        text += piece
        yield text
