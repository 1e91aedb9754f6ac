"""Parsing and writing of image placeholders: ``<img>path</img>`` in text, a run of fixed length in token ids.

As ids, an image is ``<img>``, ``num_image_tokens`` placeholder ids, and ``</img>``. The model overwrites the
placeholders with the image's features, so their values do not matter to it; the original's tokenizer writes the path
into them, one id per UTF-8 byte (id = byte), and fills up with ``<imgpad>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from ...engine.request import ImageInput
from ...errors import PromptError
from .vocabulary import IMAGE_TAGS, IMG_END, IMG_START

if TYPE_CHECKING:
    from .configuration import QWenVLVisionConfig

# Closed, and with no other tag inside, as the tokenizer reads it.
_IN_TEXT = re.compile(f"{IMG_START}((?:(?!{'|'.join(IMAGE_TAGS)}).)*){IMG_END}", re.DOTALL)


class ImagePlaceholder(NamedTuple):
    """A complete placeholder in a row of ids.

    Attributes:
        ids: all of them, ``<img>`` and ``</img>`` included.
        path: decoded from the ids; empty where there are pads only.
    """

    ids: tuple[int, ...]
    path: str


Piece = Union[int, ImagePlaceholder]
"""An id that belongs to no placeholder, or a placeholder."""


class PlaceholderFormat(NamedTuple):
    """The ids that placeholders of one vocabulary and model are made of.

    Attributes:
        start_id: the id of ``<img>``.
        end_id: the id of ``</img>``.
        pad_id: the id of ``<imgpad>``.
        num_image_tokens: ids between ``<img>`` and ``</img>``.
    """

    start_id: int
    end_id: int
    pad_id: int
    num_image_tokens: int

    @classmethod
    def of(cls, visual: QWenVLVisionConfig) -> PlaceholderFormat:
        """The format that a model's ``config.visual`` describes."""
        return cls(visual.image_start_id, visual.image_end_id, visual.image_pad_id, visual.n_queries)

    # ------------------------------------------------------------------ one placeholder

    def encode(self, path: str = "") -> list[int]:
        """The ids of one placeholder.

        Raises:
            PromptError: the path has more than ``num_image_tokens`` bytes.
        """
        content = list(path.encode("utf-8"))
        if len(content) > self.num_image_tokens:
            raise PromptError(
                f"image path {path[:40]!r}...: {len(content)} bytes of UTF-8, expected at most "
                f"{self.num_image_tokens} (one per image token); use a shorter path, or pass the image itself in a "
                "message"
            )
        pads = [self.pad_id] * (self.num_image_tokens - len(content))
        return [self.start_id, *content, *pads, self.end_id]

    def path(self, content: Sequence[int]) -> str:
        """The path in the ids between ``<img>`` and ``</img>``: the bytes before the first pad.

        Raises:
            ValueError: they are not bytes.
            UnicodeDecodeError: they are not UTF-8.
        """
        end = content.index(self.pad_id) if self.pad_id in content else len(content)
        return bytes(content[:end]).decode("utf-8")

    # ------------------------------------------------------------------ a batch of ids, as the model gets it

    def indices(self, input_ids: np.ndarray) -> np.ndarray:
        """Flat indices of every image's placeholder ids in ``[batch, length]`` ids: int64 ``[n, num_image_tokens]``.

        Raises:
            PromptError: a ``<img>`` without its ``</img>`` in the same row, or not ``num_image_tokens`` ids between.
        """
        flat = input_ids.reshape(-1)
        starts = np.flatnonzero(flat == self.start_id)
        ends = np.flatnonzero(flat == self.end_id)
        if len(starts) != len(ends):
            cut = "<img> without its </img>" if len(starts) > len(ends) else "</img> without its <img>"
            raise PromptError(f"input_ids: {len(starts)} <img> but {len(ends)} </img>; there is a {cut}")
        lengths = ends - starts - 1
        crosses_rows = starts // input_ids.shape[-1] != ends // input_ids.shape[-1]
        if (lengths != self.num_image_tokens).any() or crosses_rows.any():
            raise PromptError(
                f"input_ids: every <img> must have {self.num_image_tokens} placeholders before its </img> in the same "
                f"row, got {sorted(set(lengths.tolist()))}"
            )
        return (starts[:, None] + 1 + np.arange(self.num_image_tokens)).astype(np.int64)

    def paths(self, input_ids: np.ndarray) -> list[str]:
        """The paths or URLs in int ``[batch, length]`` ids, one per image, in order of appearance over the rows.

        Raises:
            PromptError: a placeholder is cut, or holds no path.
        """
        paths = []
        for content in input_ids.reshape(-1)[self.indices(input_ids)].tolist():
            try:
                path = self.path(content)
            except UnicodeDecodeError:
                raise PromptError("input_ids: the path in an image placeholder is not UTF-8") from None
            except ValueError:
                raise PromptError(
                    "input_ids: an image placeholder holds other ids than the bytes of a path; pass images="
                ) from None
            if not path:
                raise PromptError("images: missing; the image placeholders in input_ids hold no path, so pass images=")
            paths.append(path)
        return paths

    def starts(self, ids: Sequence[int]) -> list[int]:
        """Where the placeholder ids of each image of a prompt begin.

        Raises:
            PromptError: as ``indices``.
        """
        starts: list[int] = self.indices(np.array([ids]))[:, 0].tolist()
        return starts

    def place(self, ids: Sequence[int], images: Sequence[ImageInput]) -> tuple[ImageInput, ...]:
        """The images of a prompt, each with the place where it stands.

        Raises:
            PromptError: as ``indices``, or there are not as many images as placeholders.
        """
        starts = self.starts(ids)
        if len(images) != len(starts):
            raise PromptError(f"images: got {len(images)} for {len(starts)} <img> placeholder(s) in input_ids")
        return tuple(replace(image, start=start) for image, start in zip(images, starts))

    def count_complete(self, input_ids: np.ndarray) -> int:
        """How many complete placeholders there are; a lone ``<img>``, which the model may have written, is none."""
        distance = self.num_image_tokens + 1
        if input_ids.shape[-1] <= distance:
            return 0
        starts = input_ids[..., :-distance] == self.start_id
        return int((starts & (input_ids[..., distance:] == self.end_id)).sum())


class PlaceholderReader:
    """Finds placeholders in ids that arrive one at a time.

    A placeholder is ``<img>``, at most ``num_image_tokens`` ids of which the first are bytes (0..255) of UTF-8 and the
    others ``<imgpad>``, and ``</img>``. Ids that turn out to be none are handed out one by one, unchanged.

    Args:
        form: what placeholders are made of.
    """

    def __init__(self, form: PlaceholderFormat) -> None:
        """Start outside any placeholder."""
        self._form = form
        self._held: list[int] = []

    def push(self, token_id: int) -> list[Piece]:
        """What is certain now that ``token_id`` has come; nothing while a placeholder is open."""
        if self._held and self._continues(token_id):
            self._held.append(token_id)
            return [] if token_id != self._form.end_id else self._closed()
        released = self.finish()
        if token_id == self._form.start_id:
            self._held = [token_id]
        else:
            released.append(token_id)
        return released

    def finish(self) -> list[Piece]:
        """The ids held back, which are no placeholder since no more will come."""
        released: list[Piece] = list(self._held)
        self._held = []
        return released

    def _continues(self, token_id: int) -> bool:
        if token_id == self._form.end_id:
            return True
        if len(self._held) > self._form.num_image_tokens:
            return False
        return token_id == self._form.pad_id or (0 <= token_id < 256 and self._held[-1] != self._form.pad_id)

    def _closed(self) -> list[Piece]:
        try:
            path = self._form.path(self._held[1:-1])
        except UnicodeDecodeError:
            return self.finish()
        placeholder = ImagePlaceholder(tuple(self._held), path)
        self._held = []
        return [placeholder]


def split_ids(ids: Iterable[int], reader: PlaceholderReader) -> list[Piece]:
    """All ids, with each placeholder as one :class:`ImagePlaceholder`."""
    pieces: list[Piece] = []
    for token_id in ids:
        pieces += reader.push(token_id)
    return pieces + reader.finish()


def cut_outside_placeholders(pieces: Iterable[Piece], length: int) -> int:
    """The largest number of leading ids that is at most ``length`` and leaves no placeholder in two."""
    kept = 0
    for piece in pieces:
        size = len(piece.ids) if isinstance(piece, ImagePlaceholder) else 1
        if kept + size > length:
            break
        kept += size
    return kept


def split_text(text: str) -> Iterator[tuple[str, str | None]]:
    """Pairs of a text and the path of the ``<img>path</img>`` after it; the last pair's path is None."""
    done = 0
    for match in _IN_TEXT.finditer(text):
        yield text[done : match.start()], match.group(1)
        done = match.end()
    yield text[done:], None
