"""What all sessions share: how a question is asked and checked, and the reply."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.options import GenerationOptions, resolve_options
from ..errors import ConfigurationError, PaddleMixError
from ..models.qwen_vl import grounding
from ..models.qwen_vl.grounding import Box
from ..models.qwen_vl.messages import check_image_count
from ..utils.validation import check_boolean

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..media import ImagePolicy
    from ..models.qwen_vl.answer_stream import AnswerStream
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: as the model wrote it, tags of boxes included, without surrounding space.
        boxes: the places that the text names.
        finish_reason: ``"stop"``, or ``"length"`` where ``max_new_tokens`` or the model's window cut it off.
        timings: seconds: ``load`` (opening images), ``encode`` (the ViT), ``prefill``, ``decode``, ``total``.
        prompt_tokens, reused_tokens, new_tokens: ids of the prompt, those of them that the cache held, and new ids.
        source_image: the newest image as the model saw it, RGB, or ``None``; boxes are places in it.
        dropped_turns: earlier turns that the model was not shown, because its window ends before.
    """

    text: str
    boxes: list[Box]
    finish_reason: str
    timings: dict[str, float]
    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    source_image: Image | None
    dropped_turns: int = 0

    def image(self) -> Image | None:
        """The newest image with the boxes drawn in; ``None`` where there is no image or no box."""
        if self.source_image is None or not self.boxes:
            return None
        return grounding.draw(self.source_image, self.boxes)


class ReplyStream:
    """An answer as it is generated: iterate for pieces of text; ``reply`` has the whole once the iteration ended.

    One step runs at a time of all streams that share a ``lock``, and none holds it between its steps: a stream that
    nobody reads to its end keeps nobody waiting.
    """

    def __init__(self, pieces: Generator[str, None, Reply], lock: threading.RLock) -> None:
        self._pieces = pieces
        self._lock = lock
        self._made_by = threading.current_thread()
        self._ready: deque[str] = deque()  # what another thread had generated
        self._error: PaddleMixError | None = None
        self._ended = False
        self.reply: Reply | None = None

    def __iter__(self) -> ReplyStream:
        return self

    def __next__(self) -> str:
        with self._lock:
            if not self._ready and not self._ended:
                self._advance()
            if self._ready:
                return self._ready.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
        raise StopIteration

    def close(self) -> None:
        """Break the answer off."""
        with self._lock:
            self._pieces.close()
            self._ready.clear()
            self._ended = True

    def complete(self) -> None:
        """Generate the rest, to be read later; nothing where it is this very thread that turned to something else."""
        with self._lock:
            if self._made_by is threading.current_thread():
                return
            try:
                while not self._ended:
                    self._advance()
            except PaddleMixError as error:  # its reader's affair
                self._error = error
            finally:
                if not self._ended and self._error is None:
                    self._error = ConfigurationError("stream: the answer was interrupted; ask again")
                self._ended = True

    def _advance(self) -> None:
        try:
            self._ready.append(next(self._pieces))
        except StopIteration as end:
            self._ended = True
            self.reply = end.value


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
            return pieces.reply

    @abstractmethod
    def stream(self, text: str, images: Sequence[Any] = (), **options: Any) -> ReplyStream:
        """Like :meth:`ask`, but returns at once the pieces of the answer's text, to be iterated over.

        The question is checked here; the model starts with the first piece.
        """

    def load_image(self, source: Any, policy: ImagePolicy | None = None) -> Image:
        """An image as the model will see it, which may be handed to :meth:`ask`.

        policy: what may be read; the session's where it is ``None``. Raises ImageError.
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
        """The reply for a complete answer; ``text`` is all that came out of it, ``image`` the newest one, as the
        image processor loads it."""
        watch.stage("decode")
        text = text.strip()
        return Reply(
            text=text,
            boxes=grounding.parse(text),
            finish_reason=answer.finish_reason,
            timings={**watch.seconds, "total": sum(watch.seconds.values())},
            prompt_tokens=prompt_tokens,
            reused_tokens=reused_tokens,
            new_tokens=len(answer.tokens),
            source_image=image,
            dropped_turns=dropped_turns,
        )
