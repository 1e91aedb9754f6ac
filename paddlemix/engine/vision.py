"""Images of prompts: encoded in slices of layers, and kept by their content."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ..errors import ImageError
from .protocols import Features, ModelRunner
from .request import ImageInput


class FeatureCache:
    """Encoded images by key, the least recently used forgotten first.

    Args:
        max_bytes: never more than this.
        feature_bytes: what one image takes.
    """

    def __init__(self, max_bytes: int, feature_bytes: int) -> None:
        self._capacity = max_bytes // max(feature_bytes, 1)
        self._features: OrderedDict[bytes, Features] = OrderedDict()
        self.queries = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: bytes) -> Features | None:
        """The features, which now are the most recently used."""
        self.queries += 1
        features = self._features.get(key)
        if features is not None:
            self.hits += 1
            self._features.move_to_end(key)
        return features

    def put(self, key: bytes, features: Features) -> None:
        """Keep features, within what there is room for."""
        self._features[key] = features
        self._features.move_to_end(key)
        while len(self._features) > self._capacity:
            self._features.popitem(last=False)


class ImageEncoding:
    """An image on its way through the encoder.

    Args:
        image: with its pixels.
    """

    def __init__(self, image: ImageInput) -> None:
        self.image = image
        self._state: Any = None

    def advance(self, runner: ModelRunner, layers: int) -> Features | None:
        """Go on through so many layers; the features once all are done.

        Raises:
            ImageError: there are no pixels, or of the wrong shape.
        """
        if self.image.features is not None:
            return runner.place_features(self.image.features)
        if self._state is None:
            pixels = self.image.pixels if self.image.prepare is None else self.image.prepare()
            if pixels is None:
                raise ImageError("images: neither pixels nor features came with one")
            self._state = runner.begin_image(pixels)
        return runner.continue_image(self._state, layers)
