"""What all sessions share: how a question is asked and checked."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from ..engine.local import LocalEngine
from ..engine.options import GenerationOptions, resolve_options
from ..engine.request import FinishReason, ImageInput
from ..models.qwen_vl import grounding
from ..models.qwen_vl.generation import AnswerStream
from ..models.qwen_vl.image_placeholders import PlaceholderFormat
from ..models.qwen_vl.image_processing import image_key
from ..models.qwen_vl.messages import check_image_count
from ..models.qwen_vl.runner import check_evaluating, local_engine
from ..utils.validation import check_boolean, check_integer
from .reply import Reply, Usage
from .stream import TextStream

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..media import ImagePolicy
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor


ReplyStream = TextStream[Reply]
"""The stream of an answer."""

KEPT_IMAGES = 32
"""For so many images a session keeps the encoded features, unless it is told otherwise."""


class Stopwatch:
    """The seconds that each stage of an answer takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begin a stage; the time since the last one does not count."""
        self._since = time.perf_counter()

    def stage(self, name: str, **parts: float) -> None:
        """End the stage ``name`` and begin the next one; ``parts`` are seconds of it that count as other stages."""
        now = time.perf_counter()
        self.seconds.update(parts)
        self.seconds[name] = now - self._since - sum(parts.values())
        self._since = now


@dataclass(frozen=True)
class LoadedImage:
    """An image as the image processor loads it, and the key under which what the model makes of it is kept."""

    image: Image
    key: str


class Session(ABC):
    """Questions to one model, each answered as a :class:`Reply`.

    Any number of threads may ask; they wait for each other.

    Args:
        model: in evaluation mode.
        processor: of the same model.
        policy: what images may be read from; the processor's where it is ``None``.
        trusted_tags: read ``<ref> <box> <quad>`` out of the user's text; otherwise text is only text.
        image_cache_size: for so many images the encoded features are kept, the least recently used go first.
        options: fields of :class:`GenerationOptions`, for all questions.

    Raises:
        ConfigurationError: a wrong option.
    """

    def __init__(
        self,
        model: QWenLMHeadModel,
        processor: QwenVLProcessor,
        policy: ImagePolicy | None,
        trusted_tags: bool,
        image_cache_size: int,
        options: dict[str, Any],
    ) -> None:
        check_boolean("trusted_tags", trusted_tags)
        check_integer("image_cache_size", image_cache_size, least=0)
        self._model = model
        self._processor = processor
        self._policy = processor.policy if policy is None else policy
        self._trusted_tags = trusted_tags
        self._image_cache_size = image_cache_size
        self._options = options
        self._lock = threading.RLock()
        self._resolve({})  # a mistake shows here, not at the first question

    def ask(
        self, text: str, images: Sequence[Any] = (), stream: Callable[[str], None] | None = None, **options: Any
    ) -> Reply:
        """Ask a question, with new images before it, and wait for the answer.

        Args:
            text: the question.
            images: whatever the image loader takes; one of them or a list.
            stream: a function that is called with each piece of text as it is generated.
            **options: generation options for this question.

        Raises:
            PromptError, ImageError, ConfigurationError, NumericalError.
        """
        with self._lock:
            pieces = self.stream(text, images, **options)
            for piece in pieces:
                if stream:
                    stream(piece)
            return pieces.wait()

    @abstractmethod
    def stream(self, text: str, images: Sequence[Any] = (), **options: Any) -> ReplyStream:
        """Like :meth:`ask`, but returns at once the pieces of the answer's text, to be iterated over.

        The question is checked here; the model starts with the first piece.
        """

    def load_image(self, source: Any, policy: ImagePolicy | None = None) -> Image:
        """An image as the model will see it, which may be handed to :meth:`ask`.

        Args:
            source: whatever the image loader takes.
            policy: what may be read; the session's where it is ``None``.

        Raises:
            ImageError: it cannot be read.
        """
        return self._processor.image_processor.load(source, self._policy if policy is None else policy)

    def _load_images(self, sources: Sequence[Any]) -> list[Image]:
        check_image_count(sources, self._processor.max_images)
        return [self.load_image(source) for source in sources]

    @abstractmethod
    def reset(self) -> None:
        """Forget all questions so far."""

    @cached_property
    def _engine(self) -> LocalEngine:
        """Keeps the features of images, and keys and values of what was said, for as long as the session lives."""
        engine = local_engine(self._model, self._processor.tokenizer, feature_images=self._image_cache_size)
        return LocalEngine(engine, paddle.no_grad)

    def _loaded_image(self, image: Image) -> LoadedImage:
        return LoadedImage(image, image_key(image, self._processor.image_processor))

    def _begin_answer(
        self,
        ids: list[int],
        images: Sequence[LoadedImage],
        options: GenerationOptions,
        watch: Stopwatch,
        salt: bytes = b"",
    ) -> AnswerStream:
        """Encode the images and compute the prompt, as far as that is not done."""
        check_evaluating(self._model)
        inputs = [ImageInput(0, image.key.encode(), prepare=partial(self._pixels, image.image)) for image in images]
        placed = PlaceholderFormat.of(self._model.config.visual).place(ids, inputs)
        watch.start()
        encoding = self._engine.engine.stats().vision_seconds
        answer = AnswerStream(self._engine, self._processor.tokenizer, ids, options, images=placed, salt=salt)
        watch.stage("prefill", encode=self._engine.engine.stats().vision_seconds - encoding)
        return answer

    def _pixels(self, image: Image) -> np.ndarray:
        pixels: np.ndarray = self._processor.image_processor([image])[0]
        return pixels

    def _resolve(self, options: dict[str, Any]) -> GenerationOptions:
        return resolve_options(self._model.generation_config, None, {**self._options, **options})

    def _reply(
        self,
        text: str,
        answer: AnswerStream,
        watch: Stopwatch,
        prompt_tokens: int,
        image: Image | None,
        dropped_turns: int = 0,
    ) -> Reply:
        """The reply for a complete answer.

        Args:
            text: all that came out of it.
            answer: its tokens and finish reason.
            watch: the stages so far.
            prompt_tokens: ids of the prompt.
            image: the newest one, as the image processor loads it.
            dropped_turns: earlier turns that the model was not shown.
        """
        watch.stage("decode")
        text = text.strip()
        return Reply(
            text=text,
            boxes=grounding.parse(text),
            finish_reason=answer.finish_reason or FinishReason.LENGTH.value,
            usage=Usage(prompt_tokens, len(answer.tokens), answer.cached_tokens),
            timings={**watch.seconds, "total": sum(watch.seconds.values())},
            source_image=image,
            dropped_turns=dropped_turns,
        )
