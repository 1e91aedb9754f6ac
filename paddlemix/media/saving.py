"""Writing images so that a file is either whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from PIL import Image

from ..errors import ConfigurationError
from ..utils.files import path_aside, require_replaceable

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def save_image(image: Image.Image, path: str | os.PathLike[str], overwrite: bool = True) -> Path:
    """Write ``image`` as JPEG or PNG, by the suffix of ``path``: aside first, then renamed. Folders are made.

    overwrite: replace a file of that name; otherwise ``name-2.jpg``, ``name-3.jpg`` … is taken.
    Returns the path written. Raises ConfigurationError when the place cannot be written, or for another suffix.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigurationError(f"image {str(path)!r}: suffix {path.suffix!r}, expected one of {', '.join(_FORMATS)}")
    aside = path_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_replaceable(path)
        with open(aside, "xb") as file:
            image.convert("RGB").save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
        if overwrite:
            os.replace(aside, path)
            return path
        return _link_under_free_name(aside, path)
    except OSError as error:
        raise ConfigurationError(f"image {str(path)!r} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _link_under_free_name(file: Path, path: Path) -> Path:
    """Give ``file`` a second name: ``path``, or the first numbered one that is free."""
    for number in range(1, 1_000_000):
        target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            # fails where the name is taken, so two programs cannot choose the same one
            os.link(file, target)
            return target
        except FileExistsError:
            continue
    raise ConfigurationError(f"image {str(path)!r}: no free name in a million; empty the folder")
