"""Writing pictures so that a file is either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from PIL import Image

from ..errors import ConfigurationError

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def save_image(image: Image.Image, path: str | os.PathLike[str], overwrite: bool = True) -> Path:
    """Write ``image`` as JPEG or PNG, by the suffix of ``path``: aside first, then renamed. Folders are made.

    overwrite: replace a file of that name; otherwise ``name-2.jpg``, ``name-3.jpg`` … is taken.
    Returns the path written. Raises ConfigurationError when the place cannot be written, or for another suffix.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigurationError(
            f"picture {str(path)!r}: suffix {path.suffix!r}, expected one of {', '.join(_FORMATS)}"
        )
    aside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        with os.fdopen(descriptor, "wb") as file:
            image.convert("RGB").save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
        os.chmod(aside, 0o666 & ~_umask())
        if overwrite:
            os.replace(aside, path)
            aside = None
            return path
        # a hard link fails where the name is taken, so two programs cannot choose the same one
        for number in range(1, 1_000_000):
            target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            try:
                os.link(aside, target)
                return target
            except FileExistsError:
                continue
        raise ConfigurationError(f"picture {str(path)!r}: no free name in a million; empty the folder")
    except OSError as error:
        raise ConfigurationError(f"picture {str(path)!r} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files do not get. It can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
