"""What the image loader may read, and how much of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..utils.validation import check_integer
from .formats import FORMATS, SAFE_FORMATS


@dataclass(frozen=True)
class ImagePolicy:
    """Limits and permissions for :func:`paddlemix.media.load_image`. Defaults suit a library call: files yes, URLs no.

    allow_paths: local files may be read.
    allow_urls: http(s) URLs may be fetched.
    allow_private_addresses: fetching may reach loopback, private and other non-public addresses (tests, intranets).
    max_bytes: most bytes of an encoded image, wherever it comes from.
    max_pixels: most pixels (width x height) of a decoded image. The header is checked before anything is decoded; a
        larger JPEG is decoded at a half, a quarter or an eighth of its size.
    timeout: seconds that one fetch may take as a whole: name lookup, redirects and slow answers included.
    max_redirects: most redirects followed in one fetch; each target is checked like the first address.
    formats: names of :data:`paddlemix.media.formats.FORMATS` that are opened. AVIF needs a Pillow built with it, HEIF
        (HEIC) the package pillow-heif.
    """

    allow_paths: bool = True
    allow_urls: bool = False
    allow_private_addresses: bool = False
    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 32_000_000
    timeout: float = 10.0
    max_redirects: int = 3
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        """Check the fields. Raises ConfigurationError."""
        for name, least in (("max_bytes", 1), ("max_pixels", 1), ("max_redirects", 0)):
            check_integer(f"ImagePolicy.{name}", getattr(self, name), least)
        if not isinstance(self.timeout, (int, float)) or not math.isfinite(self.timeout) or self.timeout <= 0:
            raise ConfigurationError(f"ImagePolicy.timeout: got {self.timeout!r}, expected seconds greater than 0")
        formats = tuple(self.formats) if isinstance(self.formats, (list, tuple)) else ()
        if not formats or not set(formats) <= set(FORMATS):
            raise ConfigurationError(
                f"ImagePolicy.formats: got {self.formats!r}, expected a list of {', '.join(FORMATS)}"
            )
        object.__setattr__(self, "formats", formats)

    def replace(self, **changes: Any) -> ImagePolicy:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def scripts(cls, max_pixels: int | None = None) -> ImagePolicy:
        """For commands that a person runs for themselves: local files and public http(s) URLs.

        Args:
            max_pixels: another limit than the usual one.
        """
        policy = cls(allow_paths=True, allow_urls=True)
        return policy if max_pixels is None else policy.replace(max_pixels=max_pixels)

    @classmethod
    def server(cls) -> ImagePolicy:
        """For requests of strangers: only data that the request itself carries (bytes, data URLs, arrays).

        TIFF, AVIF and HEIF are refused: their decoders are large, and their files nest others in many ways.
        """
        return cls(allow_paths=False, allow_urls=False, formats=SAFE_FORMATS)
