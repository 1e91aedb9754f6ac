"""Whether pictures can be read, found out by worker processes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from ...errors import ImageError
from ...media import ImagePolicy, load_image
from ...media.loading import check_header
from .workers import parallel_map

DECODE, HEADER = "decode", "header"

_NO_FILE = re.compile(r"data:|[A-Za-z][A-Za-z0-9+.-]+://", re.IGNORECASE)


def unreadable_pictures(
    sources: Iterable[str], how: str = DECODE, *, workers: int = 0, policy: ImagePolicy | None = None
) -> dict[str, str]:
    """The pictures that cannot be used, and why.

    Args:
        sources: paths, data URLs, addresses; each is looked at once.
        how: "decode" reads all of each picture, "header" the beginning of each file (and all of the other kinds).
        workers: processes that look; 0: this one.
        policy: which pictures may be read; by default files and public addresses.

    Raises:
        NotEnoughMemoryError: a worker process was killed.
    """
    distinct = list(dict.fromkeys(sources))
    look = partial(_complaint, how=how, policy=policy if policy is not None else ImagePolicy.scripts())
    complaints = parallel_map(look, distinct, workers)
    return {source: complaint for source, complaint in zip(distinct, complaints) if complaint is not None}


def is_file_name(source: str) -> bool:
    """Whether a source is the path of a file, rather than a data URL or an address."""
    return not _NO_FILE.match(source)


def image_size(source: str, policy: ImagePolicy) -> tuple[int, int]:
    """Width and height in pixels. Raises ImageError."""
    return load_image(source, policy).size


def _complaint(source: str, how: str, policy: ImagePolicy) -> str | None:
    try:
        if how == HEADER and is_file_name(source):
            check_header(source, policy)
        else:
            load_image(source, policy)
    except ImageError as error:
        return str(error)
    return None
