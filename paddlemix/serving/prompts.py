"""From messages to what the engine takes: ids, and images prepared for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..engine.request import ImageInput
from ..errors import ImageError, PaddleMixError
from ..models.qwen_vl.chat_template import ChatWindow, RenderedPrompt
from ..models.qwen_vl.image_processing import image_key
from .content import Conversation
from .errors import APIError, bad_request, from_error
from .settings import ServerSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models.qwen_vl.processing import QwenVLProcessor


@dataclass(frozen=True)
class Prompt:
    """What the engine computes an answer to.

    Attributes:
        ids: of the prompt.
        images: at their places in it.
        newest_image: as the model sees it, to draw boxes into.
        dropped_turns: the oldest turns that were left out.
    """

    ids: tuple[int, ...]
    images: tuple[ImageInput, ...] = ()
    newest_image: Image | None = field(default=None, repr=False, compare=False)
    dropped_turns: int = 0


class PromptBuilder:
    """Makes prompts; its methods are slow and belong into a thread.

    Args:
        processor: tokenizer, image preparation and chat format of the model.
        settings: for limits and what images may be.
        window: positions of the model: prompt and answer.
        chat_window: how much of a conversation is kept where it may be shortened.
    """

    def __init__(
        self, processor: QwenVLProcessor, settings: ServerSettings, window: int, chat_window: ChatWindow
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.window = window
        self._chat_window = chat_window
        self._settings = settings
        self._policy = settings.image_policy

    def render(
        self, conversation: Conversation, add_generation_prompt: bool | None = None, truncate: bool = False
    ) -> RenderedPrompt:
        """The ids of a conversation, and its images, unopened.

        Args:
            truncate: leave out the oldest turns, as a chat with the model does.

        Raises:
            APIError: 400; the prompt is longer than the window, among others.
        """
        answer_follows = False if conversation.continues else add_generation_prompt
        if answer_follows is None:
            answer_follows = True
        try:
            rendered = self.processor.render(
                conversation.messages,
                add_generation_prompt=answer_follows,
                trusted_tags=self._settings.trusted_tags,
                max_window_size=self._chat_window.size if truncate else None,
                max_window_images=self._chat_window.images if truncate else None,
                keep_last_image=truncate,
                max_length=1 << 30,
            )
        except PaddleMixError as error:
            raise from_error(error, "messages") from error
        if conversation.continues and rendered.input_ids[-1] == self.tokenizer.im_end_id:
            rendered = rendered._replace(input_ids=rendered.input_ids[:-1])
        return rendered

    def chat(
        self,
        conversation: Conversation,
        *,
        add_generation_prompt: bool | None = None,
        draw: bool = False,
        truncate: bool = False,
    ) -> Prompt:
        """The prompt of a conversation.

        Args:
            draw: keep the newest image.
            truncate: leave out the oldest turns, as a chat with the model does.

        Raises:
            APIError: 400 that names the image or the length.
        """
        ids, sources, dropped = self.render(conversation, add_generation_prompt, truncate)
        self.check_length(len(ids), "messages")
        # a raw or shortened prompt holds the newest messages, and so their images
        places = conversation.image_places[len(conversation.image_places) - len(sources) :]
        return replace(self._with_images(ids, sources, places, draw), dropped_turns=dropped)

    def text(self, text: str) -> Prompt:
        """The prompt of a text that stands as it is.

        Raises:
            APIError: 400.
        """
        tags = self.tokenizer.GROUNDING_ST if self._settings.trusted_tags else ()
        return self.of_ids(self.tokenizer.encode(text, allowed_special=tags), "prompt")

    def of_ids(self, ids: Sequence[int], where: str) -> Prompt:
        """The prompt of ids that a client sent: those of text, and the marks of a chat, but no image's.

        Raises:
            APIError: 400.
        """
        tokenizer = self.tokenizer
        refused = {tokenizer.img_start_id, tokenizer.img_end_id, tokenizer.img_pad_id}
        if not ids:
            raise bad_request(where, "empty, expected a text")
        for token in ids:
            if token >= tokenizer.vocab_size or token in refused:
                raise bad_request(where, f"{token} is not the id of a token that a prompt may have")
        self.check_length(len(ids), where)
        return Prompt(tuple(ids))

    def check_length(self, length: int, where: str) -> None:
        """Raise APIError where a prompt leaves no room for an answer."""
        if length >= self.window:
            raise APIError(
                400,
                f"{where}: the prompt has {length} tokens and the model's window {self.window}, one of which an answer "
                "needs; shorten the text or send fewer images",
                param=where,
                code="context_length_exceeded",
            )

    def raw(self, text: str, images: Sequence[str], *, image_labels: bool = True) -> Prompt:
        """Images before a text, in the raw format of base models.

        Args:
            text: as it stands.
            images: their sources.
            image_labels: ``Picture N: `` before each image and a line end behind it.

        Raises:
            APIError: 400.
        """
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
        try:
            rendered = self.processor.render(
                messages,
                chat_format="raw",
                trusted_tags=self._settings.trusted_tags,
                image_labels=image_labels,
                max_length=1 << 30,
            )
        except PaddleMixError as error:
            raise from_error(error, "prompt") from error
        self.check_length(len(rendered.input_ids), "prompt")
        places = [f"images[{index}]" for index in range(len(images))]
        return self._with_images(rendered.input_ids, rendered.images, places, draw=False)

    def _with_images(self, ids: list[int], sources: Sequence[Any], places: Sequence[str], draw: bool) -> Prompt:
        starts = [index + 1 for index, token in enumerate(ids) if token == self.tokenizer.img_start_id]
        images = []
        loaded: Image | None = None
        prepared: dict[str, tuple[bytes, Any, Image]] = {}
        for start, source, where in zip(starts, sources, places):
            if source not in prepared:
                try:
                    prepared[source] = self._prepare(source)
                except ImageError as error:
                    raise bad_request(where, str(error), code="invalid_image") from error
            key, pixels, loaded = prepared[source]
            images.append(ImageInput(start, key, pixels))
        return Prompt(tuple(ids), tuple(images), loaded if draw else None)

    def _prepare(self, source: str) -> tuple[bytes, Any, Image]:
        image_processor = self.processor.image_processor
        image = image_processor.load(source, self._policy)
        squeezed = image_processor.resize(image)
        # squeezing again changes nothing, so key and pixels are those of the image
        return bytes.fromhex(image_key(squeezed, image_processor)), image_processor(squeezed)[0], image
