"""Validation of images in worker processes, and their sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from ..errors import ImageError
from ..media import ImagePolicy, load_image
from ..media.loading import check_header
from ..media.orientation import orientation, upright_size
from ..media.sources import scheme_of
from .workers import parallel_map

DECODE, HEADER = "decode", "header"


@dataclass(frozen=True)
class ImageReport:
    """The result of validating images.

    Attributes:
        unreadable: image source -> why it cannot be used.
        turned: images that are stored rotated or mirrored according to their EXIF orientation.
    """

    unreadable: dict[str, str]
    turned: tuple[str, ...]


def examine_images(
    sources: Iterable[str], how: str = DECODE, *, workers: int = 0, policy: ImagePolicy | None = None
) -> ImageReport:
    """Find images that cannot be used and images that are stored rotated.

    Args:
        sources: paths, data URLs, URLs; each is read once.
        how: "decode" decodes each image, "header" reads the header of each file (and decodes other sources).
        workers: number of worker processes; 0 reads in this one.
        policy: which images may be read; by default files and public URLs.

    Raises:
        NotEnoughMemoryError: a worker process was killed.
    """
    distinct = list(dict.fromkeys(sources))
    examine = partial(_examine, how=how, policy=policy if policy is not None else ImagePolicy.scripts())
    unreadable: dict[str, str] = {}
    turned: list[str] = []
    for source, found in zip(distinct, parallel_map(examine, distinct, workers)):
        if isinstance(found, str):
            unreadable[source] = found
        elif found != 1:
            turned.append(source)
    return ImageReport(unreadable, tuple(turned))


def is_file_name(source: str) -> bool:
    """Whether a source is a file path, rather than a data URL, base64 or a URL."""
    return scheme_of(source) == ""


def image_size(source: str, policy: ImagePolicy, exif_transpose: bool = False) -> tuple[int, int]:
    """The size of an image.

    Args:
        source: of the image.
        policy: which images may be read.
        exif_transpose: whether the EXIF orientation is applied.

    Returns:
        Width and height in pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    header = check_header(source, policy)
    return upright_size(header.size, header.orientation) if exif_transpose else header.size


def _examine(source: str, how: str, policy: ImagePolicy) -> str | int:
    """Why an image cannot be used, or else its EXIF orientation."""
    try:
        if how == HEADER and is_file_name(source):
            return check_header(source, policy).orientation
        return orientation(load_image(source, policy))
    except ImageError as error:
        return str(error)
