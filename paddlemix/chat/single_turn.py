"""Questions to a base model, which knows no conversation: each stands alone, as a text to be continued."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.options import GenerationOptions
from ..media import ImagePolicy
from ..models.qwen_vl.messages import check_question, image_list, user_message
from .base import KEPT_IMAGES, LoadedImage, ReplyStream, Session, Stopwatch
from .reply import Reply

if TYPE_CHECKING:
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor


class SingleTurnSession(Session):
    """Asks like a :class:`ChatSession`, but remembers nothing. The arguments are those of :class:`Session`."""

    def __init__(
        self,
        model: QWenLMHeadModel,
        processor: QwenVLProcessor,
        *,
        policy: ImagePolicy | None = None,
        trusted_tags: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, processor, policy, trusted_tags, KEPT_IMAGES, options)

    def stream(self, text: str, images: Sequence[Any] = (), **options: Any) -> ReplyStream:
        """As :meth:`Session.stream`."""
        watch = Stopwatch()
        resolved = self._resolve(options)
        images = image_list(images)
        check_question(text, images)
        pil_images = self._load_images(images)
        prompt = self._processor.render(
            [user_message(text, pil_images)], chat_format="raw", trusted_tags=self._trusted_tags
        )
        loaded = [self._loaded_image(image) for image in pil_images]
        watch.stage("load")
        return ReplyStream(self._answer(prompt.input_ids, loaded, resolved, watch), self._lock)

    def reset(self) -> None:
        """Nothing is remembered, so there is nothing to do."""

    def _answer(
        self, ids: list[int], images: Sequence[LoadedImage], options: GenerationOptions, watch: Stopwatch
    ) -> Generator[str, None, Reply]:
        answer = self._begin_answer(ids, images, options, watch)
        text = ""
        for piece in answer:
            text += piece
            yield piece
        return self._reply(text, answer, watch, len(ids), images[-1].image if images else None)
