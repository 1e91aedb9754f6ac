"""What the engine asks of a model and of a tokenizer. It knows no more of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Features = Any
"""An encoded image; only the model looks into it."""


@dataclass(frozen=True)
class PlacedFeatures:
    """Positions of a pass that an image's features take instead of their ids' embeddings.

    Attributes:
        offset: the first of them, counted from the first new position of the row.
        first: which of the image's features goes there; the others follow.
        count: how many do.
        features: the image.
    """

    offset: int
    first: int
    count: int
    features: Features = field(repr=False)


@dataclass(frozen=True)
class RowInput:
    """The part of a pass through the model that belongs to one row.

    Attributes:
        ids: int64 ``[count]``, new positions.
        start: positions that the cache holds already.
        blocks: of the cache, in order; they reach to the end of the new positions.
        position_factor: what ``ModelRunner.position_factor`` gave for the prompt.
        features: of images in the new positions.
        logits: of how many last positions logits are wanted; often none but in the last part of a prompt.
    """

    ids: np.ndarray
    start: int
    blocks: Sequence[int]
    position_factor: float
    features: tuple[PlacedFeatures, ...] = ()
    logits: int = 1


@dataclass(frozen=True)
class RowChoice:
    """How a row's tokens are chosen on the device.

    Attributes:
        temperature: 0 takes the likeliest.
        top_p: 1 for all tokens.
        uniforms: random numbers for the next steps, from 0 up to but not including 1.
        stop_ids: after one of these the row goes no further; whoever fetches the tokens still has to look for them.
    """

    temperature: float
    top_p: float
    uniforms: Sequence[float] = ()
    stop_ids: Sequence[int] = ()


class DecodeRun(Protocol):
    """Rows that go on by themselves, their tokens chosen on the device."""

    @property
    def launched(self) -> int:
        """Steps that were launched and not fetched."""
        ...

    def launch(self) -> None:
        """Let the device compute another step."""
        ...

    def fetch(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 ``[rows]`` and log probabilities ``[rows]``, NaN for no numbers, of the first step launched."""
        ...


class ModelRunner(Protocol):
    """A model, as the engine runs it.

    Attributes:
        vocab_size: ids from here on are never chosen.
        embedded: ids from here on may not be in a prompt.
        window: most positions of a row, prompt and answer together.
        image_tokens: positions that an image takes.
        feature_bytes: memory that an encoded image takes.
        identity: what of the model decides what a cached block holds: weights, adapter, dtypes.
        runs_ahead: whether ``start_run`` saves time here: where the device does not wait for the host.
    """

    vocab_size: int
    embedded: int
    window: int
    image_tokens: int
    feature_bytes: int
    identity: bytes
    runs_ahead: bool

    def position_factor(self, prompt_length: int) -> float:
        """How positions are stretched in a row whose prompt has this length; fixed for the whole row."""
        ...

    def block_bytes(self, block_size: int) -> int:
        """Memory that a block of the cache takes."""
        ...

    def new_cache(self, blocks: int, block_size: int) -> Any:
        """A cache of so many blocks, for ``forward``."""
        ...

    def grown_cache(self, cache: Any, blocks: int) -> Any:
        """A cache of so many blocks, the first of which hold what ``cache`` does."""
        ...

    def forward(self, rows: Sequence[RowInput], cache: Any) -> list[np.ndarray]:
        """One pass over the new positions of all rows.

        Returns:
            For each row float32 ``[row.logits, vocab]``, of its last positions.
        """
        ...

    def start_run(
        self, rows: Sequence[RowInput], choices: Sequence[RowChoice], cache: Any, steps: int
    ) -> DecodeRun | None:
        """Rows of one new id each, for at most so many steps; they end the run before.

        Returns:
            ``None`` where the host has to choose.
        """
        ...

    def begin_image(self, pixels: np.ndarray) -> Any:
        """Start encoding float32 ``[3, side, side]``; returns what ``continue_image`` goes on with.

        Raises:
            ImageError: another shape.
        """
        ...

    def continue_image(self, state: Any, layers: int) -> Features | None:
        """Go on through so many layers; the features once all are done."""
        ...

    def place_features(self, features: np.ndarray) -> Features:
        """Features that came from outside, float32 ``[image_tokens, hidden]``, as ``continue_image`` returns them."""
        ...


class Codec(Protocol):
    """A tokenizer, as far as decoding needs it."""

    errors: str
    eod_id: int
    im_start_id: int
    im_end_id: int

    def placeholder_reader(self) -> Any:
        """A reader that puts ids together which make sense only as a whole."""
        ...

    def piece_bytes(self, piece: Any, skip_special_tokens: bool = False, keep_image_special: bool = False) -> bytes:
        """The bytes of what the reader gave."""
        ...
