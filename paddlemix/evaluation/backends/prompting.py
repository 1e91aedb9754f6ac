"""From a question to what the engine takes: ids, and images prepared for the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine.request import ImageInput
from ...errors import EvaluationError
from ...media.policy import ImagePolicy
from ...models.qwen_vl.image_processing import image_key
from ..benchmarks import Generation
from ..records import ImageRef, Question

if TYPE_CHECKING:
    from ...models.qwen_vl.processing import QwenVLProcessor

_IMAGES_KEPT = 32
"""Prepared images that are kept: those of neighboring questions and of the examples before them."""


@dataclass(frozen=True)
class PreparedQuestion:
    """A question for the engine.

    Attributes:
        ids: of the prompt.
        images: in order.
        choices: ids of each choice.
    """

    ids: tuple[int, ...]
    images: tuple[ImageInput, ...]
    choices: tuple[tuple[int, ...], ...]


class Prompting:
    """Prepares questions; for any number of threads.

    Args:
        processor: of the model.
        generation: form of prompts and answers.
        policy: what images may be.

    Raises:
        EvaluationError: a conversation is asked of a base model.
    """

    def __init__(self, processor: QwenVLProcessor, generation: Generation, policy: ImagePolicy) -> None:
        if generation.form == "chat" and processor.chat_format == "raw":
            raise EvaluationError(
                "model: it is a base model, and this benchmark asks in a conversation; take a chat model or an adapter"
            )
        self._processor = processor
        self._form = generation.form
        self._keeps_tags = generation.keeps_tags
        self._policy = policy
        self._prepared: OrderedDict[str, tuple[bytes, np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def prepare(self, question: Question) -> PreparedQuestion:
        """Ids and images of a question.

        Raises:
            ImageError: an image cannot be read.
            PromptError: the prompt is too long.
        """
        tokenizer = self._processor.tokenizer
        ids, sources = self._ids(question.prompt)
        starts = [index + 1 for index, token in enumerate(ids) if token == tokenizer.img_start_id]
        images = tuple(ImageInput(start, *self._image(source)) for start, source in zip(starts, sources))
        choices = tuple(tuple(tokenizer.encode(text, allowed_special=())) for text in question.choices)
        return PreparedQuestion(tuple(ids), images, choices)

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text without special tokens."""
        return self._processor.tokenizer.decode(
            list(ids), skip_special_tokens=True, keep_image_special=self._keeps_tags
        )

    def _ids(self, prompt: Sequence[str | ImageRef]) -> tuple[list[int], list[Any]]:
        content = [
            {"type": "image", "image": part.path} if isinstance(part, ImageRef) else {"type": "text", "text": part}
            for part in prompt
        ]
        # A prompt is written out, labels and line ends around its images included. As in the original, the tags of
        # references and boxes are read out of raw prompts.
        rendered = self._processor.render(
            [{"role": "user", "content": content}],
            chat_format=self._form if self._form == "raw" else None,
            trusted_tags=self._form == "raw",
            image_labels=False,
        )
        return rendered.input_ids, rendered.images

    def _image(self, path: str) -> tuple[bytes, np.ndarray]:
        with self._lock:
            if path in self._prepared:
                self._prepared.move_to_end(path)
                return self._prepared[path]
        image_processor = self._processor.image_processor
        squeezed = image_processor.resize(image_processor.load(path, self._policy))
        # squeezing again changes nothing, so key and pixels are those of the image
        prepared = bytes.fromhex(image_key(squeezed, image_processor)), image_processor(squeezed)[0]
        with self._lock:
            self._prepared[path] = prepared
            while len(self._prepared) > _IMAGES_KEPT:
                self._prepared.popitem(last=False)
        return prepared
