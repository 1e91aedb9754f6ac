"""The one way in for pictures: every source goes through :func:`load_image` and its policy.

Whatever is wrong with a picture comes out as one ImageError (FetchError for URLs) of one line. Decoders are limited to
JPEG, PNG, WEBP, GIF and BMP, and the size in the header is checked before anything is decoded.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Union
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from ..errors import FetchError, ImageError, one_line
from .fetch import fetch, shorten
from .policy import ImagePolicy

ImageSource = Union[Image.Image, str, "os.PathLike[str]", bytes, bytearray, memoryview, np.ndarray]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_HEADER_BYTES = 64 * 1024
_ANIMATED = ("GIF", "WEBP", "PNG")
_EXPECTED = "a PIL image, path, bytes, data URL, http(s) URL or uint8 array"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URL = re.compile(r"data:(?P<media>[^;,]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)


def load_image(source: ImageSource, policy: ImagePolicy | None = None) -> Image.Image:
    """The decoded picture behind ``source``, in a mode that ``convert("RGB")`` maps to 8 bits per channel.

    source: a PIL image; a path (str or Path); encoded bytes; a ``data:image/...;base64,`` URL; an http(s) URL where the
        policy allows it; a uint8 array [height, width], [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    policy: permissions and limits; ``ImagePolicy()`` (files yes, URLs no) when None.

    Of an animation the first frame is taken (of an open PIL image, its current frame). 16-bit grey is scaled to 8 bits.
    EXIF orientation is not applied; the tag stays readable in the result. The source is never changed.
    Raises ImageError, or FetchError for what is wrong with a URL.
    """
    policy = policy if policy is not None else ImagePolicy()
    if isinstance(source, Image.Image):
        return _from_pil(source, policy)
    if isinstance(source, np.ndarray):
        return _from_array(source, policy)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "picture bytes", policy)
    if isinstance(source, os.PathLike):
        return _from_path(os.fspath(source), policy)
    if isinstance(source, str):
        return _from_text(source, policy)
    raise ImageError(f"picture of type {type(source).__name__}: expected {_EXPECTED}")


def check_header(path: str | os.PathLike[str], policy: ImagePolicy | None = None) -> None:
    """Raise ImageError where :func:`load_image` would refuse a file before it decodes any pixel.

    Only the beginning of the file is read, unless its header is longer than usual.
    """
    policy = policy if policy is not None else ImagePolicy()
    path = os.fspath(path)
    name = f"picture file {_short(path)}"
    beginning = _read_path(path, name, policy, _HEADER_BYTES)
    is_whole = len(beginning) < _HEADER_BYTES
    if not is_whole:
        _check_bytes(os.path.getsize(path), name, policy)
    try:
        _open(beginning, name, policy)
    except ImageError:
        if is_whole:
            raise
        _open(_read_path(path, name, policy, policy.max_bytes + 1), name, policy)


def _from_text(source: str, policy: ImagePolicy) -> Image.Image:
    if source[:5].lower() == "data:":
        return _decode(_data_url_bytes(source, policy), "data URL", policy)
    scheme = _SCHEME.match(source)
    if scheme is None:
        return _from_path(source, policy)
    if scheme.group().lower() not in ("http://", "https://"):
        raise ImageError(
            f"picture {_short(source)}: scheme {scheme.group()[:20]!r} is not supported; expected {_EXPECTED}"
        )
    data = fetch(source, policy)
    try:
        return _decode(data, f"URL {shorten(source)}", policy)
    except ImageError as error:
        raise FetchError(str(error)) from error


def _from_path(path: str | bytes, policy: ImagePolicy) -> Image.Image:
    name = f"picture file {_short(path)}"
    return _decode(_read_path(path, name, policy, policy.max_bytes + 1), name, policy)


def _read_path(path: str | bytes, name: str, policy: ImagePolicy, limit: int) -> bytes:
    """At most ``limit`` bytes of a picture file."""
    if not policy.allow_paths:
        raise ImageError(f"{name} refused: this image policy reads no local files; pass the picture itself")
    if not path:
        raise ImageError(f"picture path is empty: expected {_EXPECTED}")
    try:
        return _read_regular_file(path, limit)
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist (working directory {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{name} cannot be read: {reason}") from error


def _read_regular_file(path: str | bytes, limit: int) -> bytes:
    """At most ``limit`` bytes of a file that is no directory, device or pipe. Raises OSError."""
    # O_NONBLOCK: opening a named pipe must not wait for a writer
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError("it is a directory, expected a picture file")
        if not stat.S_ISREG(mode):
            raise OSError("it is a device, pipe or socket, expected a picture file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def _data_url_bytes(url: str, policy: ImagePolicy) -> bytes:
    header = _DATA_URL.match(url[:1024])
    if header is None or not header["parameters"].lower().endswith(";base64"):
        raise ImageError(f"data URL {_short(url)}: expected data:image/...;base64,...")
    media = header["media"].strip().lower()
    if media not in ("", "application/octet-stream") and not media.startswith("image/"):
        raise ImageError(f"data URL of type {media[:40]!r}: expected image/...")
    payload = url[header.end() :]
    _check_bytes((len(payload) - payload.count("%") * 2) * 3 // 4 - 2, "data URL", policy)
    try:
        return base64.b64decode(b"".join(unquote_to_bytes(payload).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"data URL {_short(url)}: malformed base64: {error}") from error


def _open(data: bytes, name: str, policy: ImagePolicy) -> Image.Image:
    """Encoded bytes -> picture whose header is read and checked, and whose pixels are not decoded yet.

    The decoders raise many exception types on broken input, hence the wide nets here and in :func:`_decode`.
    """
    if not data:
        raise ImageError(f"{name} is empty: expected a picture ({', '.join(FORMATS)})")
    _check_bytes(len(data), name, policy)
    try:
        with warnings.catch_warnings():
            # sizes are checked below, as an error; broken metadata does no harm to the pixels
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture of a supported format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is larger than the limit of {policy.max_pixels} pixels: {error}") from error
    except Exception as error:
        raise ImageError(f"{name} has a broken header: {one_line(error)}") from error
    _check_size(image, name, policy)
    return image


def _decode(data: bytes, name: str, policy: ImagePolicy) -> Image.Image:
    """Encoded bytes -> loaded picture."""
    image = _open(data, name, policy)
    try:
        image.load()
        # a copy of an animation's first frame cannot be moved to another frame, nor decode anything later
        loaded = image.copy() if image.format in _ANIMATED else image
        return _to_eight_bits(loaded, name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name} is damaged or truncated: {one_line(error)}") from error


def _from_pil(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    _check_size(image, "PIL image", policy)
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"PIL image is damaged, truncated or closed: {one_line(error)}") from error
    return _to_eight_bits(image, "PIL image")


def _from_array(array: np.ndarray, policy: ImagePolicy) -> Image.Image:
    came = f"picture array of shape {tuple(array.shape)} and dtype {array.dtype}"
    if array.dtype != np.uint8:
        raise ImageError(f"{came}: expected uint8 with values 0..255; scale and convert it first")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"{came}: expected [height, width], [height, width, 3] or [height, width, 4]")
    if array.size == 0:
        raise ImageError(f"{came}: expected at least one pixel")
    image = Image.fromarray(np.ascontiguousarray(array))
    _check_size(image, "picture array", policy)
    return image


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey to 8-bit grey by its high byte, as Pillow does with 16-bit colour; its own conversion would clip."""
    if image.mode == "F":
        raise ImageError(f"{name} has floating point pixels (mode F): expected 8 or 16 bits per channel")
    if image.mode == "La":
        raise ImageError(f"{name} has premultiplied grey pixels (mode La): convert it to mode LA first")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"{name} has 32-bit pixels outside 0..65535 (mode I): expected 8 or 16 bits per channel")
    result = Image.fromarray((values >> 8).astype(np.uint8))
    result.info.update(image.info)
    # a transparent grey level is given in 16 bits too, and alpha is not kept through this conversion
    result.info.pop("transparency", None)
    return result


def _check_bytes(size: int, name: str, policy: ImagePolicy) -> None:
    if size > policy.max_bytes:
        raise ImageError(f"{name} is larger than the limit of {policy.max_bytes} bytes")


def _check_size(image: Image.Image, name: str, policy: ImagePolicy) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has a size of {width}x{height} pixels: expected at least 1x1")
    if width * height > policy.max_pixels:
        raise ImageError(f"{name} has {width}x{height} pixels, more than the limit of {policy.max_pixels}")


def _short(text: str | bytes) -> str:
    """A source for messages: printable, and not longer than a line."""
    shown = repr(text if len(text) <= 100 else text[:97])
    return shown if len(text) <= 100 else shown + "..."
