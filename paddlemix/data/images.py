"""Whether images can be read, found out by worker processes."""

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
    """What was found out about images.

    Attributes:
        unreadable: those that cannot be used, and why.
        turned: those whose EXIF orientation says that they are stored on their side or mirrored.
    """

    unreadable: dict[str, str]
    turned: tuple[str, ...]


def examine_images(
    sources: Iterable[str], how: str = DECODE, *, workers: int = 0, policy: ImagePolicy | None = None
) -> ImageReport:
    """Which images cannot be used, and which are stored otherwise than they were seen.

    Args:
        sources: paths, data URLs, addresses; each is looked at once.
        how: "decode" reads all of each image, "header" the beginning of each file (and all of the other kinds).
        workers: processes that look; 0: this one.
        policy: which images may be read; by default files and public addresses.

    Raises:
        NotEnoughMemoryError: a worker process was killed.
    """
    distinct = list(dict.fromkeys(sources))
    look = partial(_look, how=how, policy=policy if policy is not None else ImagePolicy.scripts())
    unreadable, turned = {}, []
    for source, found in zip(distinct, parallel_map(look, distinct, workers)):
        if isinstance(found, str):
            unreadable[source] = found
        elif found != 1:
            turned.append(source)
    return ImageReport(unreadable, tuple(turned))


def is_file_name(source: str) -> bool:
    """Whether a source is the path of a file, rather than a data URL, base64 or an address."""
    return scheme_of(source) == ""


def image_size(source: str, policy: ImagePolicy, exif_transpose: bool = False) -> tuple[int, int]:
    """Width and height in pixels, of the upright image where it is turned so. Raises ImageError."""
    header = check_header(source, policy)
    return upright_size(header.size, header.orientation) if exif_transpose else header.size


def _look(source: str, how: str, policy: ImagePolicy) -> str | int:
    """What is wrong with an image, else its EXIF orientation."""
    try:
        if how == HEADER and is_file_name(source):
            return check_header(source, policy).orientation
        return orientation(load_image(source, policy))
    except ImageError as error:
        return str(error)
