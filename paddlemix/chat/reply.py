"""An answer of a model: text, boxes, why it ended, what it cost, and its image with the boxes drawn in."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..media.loading import full_size
from ..media.saving import save_image
from ..models.qwen_vl import grounding
from ..models.qwen_vl.grounding import Box

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_NAME = "pred.jpg"


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer.

    Attributes:
        prompt_tokens: ids of the prompt.
        new_tokens: generated ids.
        reused_tokens: ids of the prompt whose keys and values were cached.
    """

    prompt_tokens: int
    new_tokens: int
    reused_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: as the model wrote it, tags of boxes included, without surrounding space.
        boxes: the places that the text names, in thousandths of the width and height of the newest image.
        finish_reason: ``"stop"``, or ``"length"`` where ``max_new_tokens`` or the model's window cut it off.
        timings: seconds of the stages: ``load`` (opening images), ``encode`` (the ViT), ``prefill``, ``decode``, and
            their ``total``; :func:`paddlemix.predict.predict` adds ``model`` (loading it), which the total leaves out.
            Empty for answers that were computed in a batch.
        usage: token counts.
        source_image: the newest image as the model saw it, RGB, or ``None``. Answers of a batch have it only where they
            have boxes.
        dropped_turns: earlier turns that the model was not shown, because its window ends before.
    """

    text: str
    boxes: list[Box]
    finish_reason: str
    usage: Usage
    timings: dict[str, float] = field(default_factory=dict)
    source_image: Image | None = None
    dropped_turns: int = 0

    @property
    def prompt_tokens(self) -> int:
        """``usage.prompt_tokens``."""
        return self.usage.prompt_tokens

    @property
    def new_tokens(self) -> int:
        """``usage.new_tokens``."""
        return self.usage.new_tokens

    @property
    def reused_tokens(self) -> int:
        """``usage.reused_tokens``."""
        return self.usage.reused_tokens

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) in which pixels of boxes count; ``None`` without an image.

        It is that of the image's file, turned upright where ``exif_transpose`` says so. :meth:`image` is smaller where
        a large JPEG was reduced.
        """
        return None if self.source_image is None else full_size(self.source_image)

    def image(self) -> Image | None:
        """A copy of the newest image with the boxes drawn in; ``None`` where there is no image or no box."""
        if self.source_image is None or not self.boxes:
            return None
        return grounding.draw(self.source_image, self.boxes)

    def save(self, directory: str | os.PathLike[str]) -> Path | None:
        """Write the drawn image as ``pred.jpg`` into ``directory``, replacing an older one.

        Returns:
            Its path; ``None`` where there is nothing to draw.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        image = self.image()
        return None if image is None else save_image(image, Path(directory) / IMAGE_NAME)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, ready for JSON."""
        return {
            "text": self.text,
            "boxes": [_box_fields(box, self.size) for box in self.boxes],
            "finish_reason": self.finish_reason,
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
            "image_size": None if self.size is None else list(self.size),
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
        }


def _box_fields(box: Box, size: tuple[int, int] | None) -> dict[str, Any]:
    fields = dataclasses.asdict(box)
    return fields if size is None else {**fields, "pixels": list(box.pixels(*size))}
