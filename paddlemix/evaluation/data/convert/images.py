"""Images out of tables and mirrors, written as the bytes that they are: nothing is decoded or compressed again."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ....errors import EvaluationError
from ....utils.files import replacing
from ..files import PREFIX


def save_image(data_dir: Path, name: str, content: bytes) -> str:
    """Write an image below the data directory, once; returns its name as data files spell it.

    Raises:
        EvaluationError: another image of that name is there, it cannot be written, or the name leads elsewhere.
    """
    path = inside(data_dir, name)
    try:
        if path.exists():
            # COCO's images come with several data sets, compressed anew by some.
            if not name.startswith("coco/") and path.read_bytes() != content:
                raise EvaluationError(f"{path}: another image is there already; move it away")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as aside:
                aside.write_bytes(content)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror}") from error
    return PREFIX + name


def inside(data_dir: Path, name: str) -> Path:
    """A path below the data directory, of a name that others chose.

    Raises:
        EvaluationError: it leads out of the directory.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise EvaluationError(f"image: got the name {name!r:.80}, expected one that stays below {data_dir}")
    return data_dir / path


def image_bytes(cell: Any, where: str) -> bytes:
    """The bytes of an image in a parquet file: ``{"bytes": …, "path": …}``, or bytes alone.

    Raises:
        EvaluationError: there are none.
    """
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes) or not content:
        raise EvaluationError(f"{where}: image: there are no bytes; expected a mirror that holds its images")
    return content


def from_base64(text: str, where: str) -> bytes:
    """The bytes of an image in a table.

    Raises:
        EvaluationError: the text is empty, or no base64.
    """
    if not text:
        raise EvaluationError(f"{where}: image: there is none; expected the published table with its images")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvaluationError(f"{where}: image: got no base64 ({error})") from error


def suffix_of(content: bytes) -> str:
    """The usual suffix of an image's format."""
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"
