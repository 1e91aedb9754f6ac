"""Questions to a base model, which knows no conversation: each stands alone, as a text to be continued."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import paddle

from ..errors import PromptError
from ..media import ImagePolicy, load_image
from ..models.qwen_vl import grounding
from ..models.qwen_vl.chat import AnswerStream
from ..models.qwen_vl.generation_options import GenerationOptions, resolve_options
from .session import Reply, ReplyStream

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor


class SingleTurnSession:
    """Asks like a :class:`ChatSession`, but remembers nothing.

    Args:
        model: in evaluation mode.
        processor: of the same model.
        policy: what pictures may be read from; the processor's by default.
        trusted_tags: read ``<ref> <box> <quad>`` out of the text; otherwise text is only text.
        **options: fields of :class:`GenerationOptions`, for all questions.
    """

    def __init__(
        self,
        model: QWenLMHeadModel,
        processor: QwenVLProcessor,
        *,
        policy: ImagePolicy | None = None,
        trusted_tags: bool = False,
        **options: Any,
    ) -> None:
        resolve_options(model.generation_config, None, options)
        self._model = model
        self._processor = processor
        self._policy = processor.policy if policy is None else policy
        self._trusted_tags = trusted_tags
        self._options = options

    def ask(
        self, text: str, images: Sequence[Any] = (), stream: Callable[[str], None] | None = None, **options: Any
    ) -> Reply:
        """As :meth:`ChatSession.ask`."""
        pieces = self.stream(text, images, **options)
        for piece in pieces:
            if stream is not None:
                stream(piece)
        return pieces.reply

    def stream(self, text: str, images: Sequence[Any] = (), **options: Any) -> ReplyStream:
        """As :meth:`ChatSession.stream`."""
        started = time.perf_counter()
        resolved = resolve_options(self._model.generation_config, None, {**self._options, **options})
        if not isinstance(text, str):
            raise PromptError(f"text: expected a str, got {type(text).__name__}")
        if not text.strip() and not images:
            raise PromptError("text: empty, expected a question or at least one picture")
        pictures = [load_image(source, self._policy) for source in images]
        parts = [{"type": "image", "image": picture} for picture in pictures]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
        prompt = self._processor.render([message], chat_format="raw", trusted_tags=self._trusted_tags)
        timings = {"load": time.perf_counter() - started}
        return ReplyStream(self._answer(prompt.input_ids, pictures, resolved, timings))

    def reset(self) -> None:
        """Nothing is remembered, so there is nothing to do."""

    def _answer(
        self, ids: list[int], pictures: list[Image], options: GenerationOptions, timings: dict[str, float]
    ) -> Iterator[str]:
        started = time.perf_counter()
        features = None
        if pictures:
            with paddle.no_grad():
                features = self._model.visual(paddle.to_tensor(self._processor.image_processor(pictures)))
        timings["encode"] = time.perf_counter() - started
        answer = AnswerStream(self._model, self._processor.tokenizer, ids, options, image_features=features)
        timings["prefill"] = time.perf_counter() - started - timings["encode"]
        text = ""
        for piece in answer:
            text += piece
            yield piece
        text = text.strip()
        timings["decode"] = time.perf_counter() - started - timings["encode"] - timings["prefill"]
        timings["total"] = sum(timings.values())
        return Reply(
            text=text,
            boxes=grounding.parse(text),
            finish_reason=answer.finish_reason,
            timings=timings,
            prompt_tokens=len(ids),
            reused_tokens=0,
            new_tokens=len(answer.tokens),
            picture=self._processor.image_processor.to_rgb(pictures[-1]) if pictures else None,
        )
