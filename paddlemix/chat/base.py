"""What all sessions share: how a question is asked and checked."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.options import GenerationOptions, resolve_options
from ..engine.stopping import LENGTH
from ..models.qwen_vl import grounding
from ..models.qwen_vl.messages import check_image_count
from ..utils.validation import check_boolean
from .reply import Reply, Usage
from .stream import TextStream

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..media import ImagePolicy
    from ..models.qwen_vl.answer_stream import AnswerStream
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor


ReplyStream = TextStream[Reply]
"""The stream of an answer."""


class Stopwatch:
    """The seconds that each stage of an answer takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begin a stage; the time since the last one does not count."""
        self._since = time.perf_counter()

    def stage(self, name: str) -> None:
        """End the stage ``name`` and begin the next one."""
        now = time.perf_counter()
        self.seconds[name] = now - self._since
        self._since = now


class Session(ABC):
    """Questions to one model, each answered as a :class:`Reply`.

    Any number of threads may ask; they wait for each other.

    Args:
        model: in evaluation mode.
        processor: of the same model.
        policy: what images may be read from; the processor's where it is ``None``.
        trusted_tags: read ``<ref> <box> <quad>`` out of the user's text; otherwise text is only text.
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
        options: dict[str, Any],
    ) -> None:
        check_boolean("trusted_tags", trusted_tags)
        self._model = model
        self._processor = processor
        self._policy = processor.policy if policy is None else policy
        self._trusted_tags = trusted_tags
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

    def _resolve(self, options: dict[str, Any]) -> GenerationOptions:
        return resolve_options(self._model.generation_config, None, {**self._options, **options})

    def _reply(
        self,
        text: str,
        answer: AnswerStream,
        watch: Stopwatch,
        prompt_tokens: int,
        image: Image | None,
        reused_tokens: int = 0,
        dropped_turns: int = 0,
    ) -> Reply:
        """The reply for a complete answer.

        Args:
            text: all that came out of it.
            answer: its tokens and finish reason.
            watch: the stages so far.
            prompt_tokens: ids of the prompt.
            image: the newest one, as the image processor loads it.
            reused_tokens: ids of the prompt whose keys and values were cached.
            dropped_turns: earlier turns that the model was not shown.
        """
        watch.stage("decode")
        text = text.strip()
        return Reply(
            text=text,
            boxes=grounding.parse(text),
            finish_reason=answer.finish_reason or LENGTH,
            usage=Usage(prompt_tokens, len(answer.tokens), reused_tokens),
            timings={**watch.seconds, "total": sum(watch.seconds.values())},
            source_image=image,
            dropped_turns=dropped_turns,
        )
