"""The one way in for images: every source goes through :func:`load_image` and its policy.

Whatever is wrong with an image comes out as one ImageError (FetchError for URLs) of one line. What a file is, is told
by its first bytes; only the policy's formats reach a decoder, after the number of their pixels and parts was checked.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from typing import Union, cast

import numpy as np
from PIL import Image

from ..errors import FetchError, ImageError
from ..utils.display import one_line
from .fetch import fetch, shorten
from .formats import kind_of
from .orientation import orientation
from .policy import ImagePolicy
from .sources import (
    EXPECTED,
    base64_bytes,
    check_bytes,
    data_url_bytes,
    file_of_url,
    find_file,
    read_file,
    scheme_of,
    short,
)
from .structure import JpegHeader, check_structure, webp_canvas

ImageSource = Union[Image.Image, str, "os.PathLike[str]", bytes, bytearray, memoryview, np.ndarray]

_HEADER_BYTES = 64 * 1024
_ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF", "MPO")
_REDUCTIONS = (2, 4, 8)  # of JPEGs, by the decoder itself
_BUFFERED = 4  # times the policy's pixels: most of a JPEG whose decoder keeps all coefficients
_NAME, _FULL_SIZE = "paddlemix name", "paddlemix full size"  # keys of Image.info


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before it is decoded.

    Attributes:
        size: (width, height) in pixels, as stored.
        orientation: the EXIF orientation, 1 to 8.
    """

    size: tuple[int, int]
    orientation: int


def load_image(source: ImageSource, policy: ImagePolicy | None = None) -> Image.Image:
    """The decoded image behind ``source``, in a mode that ``convert("RGB")`` maps to 8 bits per channel.

    source: a PIL image; a path (str or Path); encoded bytes; a ``data:image/...;base64,`` URL or the base64 alone; a
        ``file:///`` URL; an http(s) URL where the policy allows it; a uint8 array [height, width], [height, width,
        3] (RGB) or [height, width, 4] (RGBA). In a path ``~`` is the home directory, and where there is no such file,
        quotation marks and backslashes are read as a terminal does.
    policy: permissions and limits; ``ImagePolicy()`` (files yes, URLs no) when None.

    Of an animation the first frame is taken (of an open PIL image, its current frame). 16-bit gray is scaled to 8 bits.
    A JPEG with more pixels than the policy allows comes at a half, a quarter or an eighth of its size, of which
    :func:`full_size` tells. EXIF orientation is not applied (but in TIFF, AVIF and HEIF, where it is part of the
    format); the tag stays readable in the result. The source is never changed.
    Raises ImageError, or FetchError for what is wrong with a URL.
    """
    policy = policy if policy is not None else ImagePolicy()
    if isinstance(source, Image.Image):
        return _from_pil(source, policy)
    if isinstance(source, np.ndarray):
        return _from_array(source, policy)
    data, name = _bytes_of(source, policy)
    try:
        image = _decode(data, name, policy)
    except ImageError as error:
        if name.startswith("URL "):
            raise FetchError(str(error)) from error
        raise
    image.info[_NAME] = name
    return image


def check_header(source: ImageSource, policy: ImagePolicy | None = None) -> ImageHeader:
    """Raise ImageError where :func:`load_image` would refuse an image before it decodes any pixel.

    Of a file only the beginning is read, unless its header is longer than usual.
    """
    policy = policy if policy is not None else ImagePolicy()
    if isinstance(source, (Image.Image, np.ndarray)):
        image = load_image(source, policy)
        return ImageHeader(image.size, orientation(image))
    path = _path_of(source, policy)
    if path is None:
        data, name = _bytes_of(source, policy)
        return _header(_open(data, name, policy))
    name = f"image file {short(path)}"
    beginning = read_file(path, name, _HEADER_BYTES)
    is_whole = len(beginning) < _HEADER_BYTES
    if not is_whole:
        check_bytes(os.path.getsize(path), name, policy)
    try:
        return _header(_open(beginning, name, policy))
    except ImageError:
        if is_whole:
            raise
        return _header(_open(read_file(path, name, policy.max_bytes + 1), name, policy))


def full_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the file that an image was loaded from, in pixels.

    It is larger than the image where a large JPEG was reduced; otherwise it is the image's own size.
    """
    size: tuple[int, int] | None = image.info.get(_FULL_SIZE)
    # other programs copy ``info`` to what they cut out of an image
    if size is None or not any(image.size == _reduced(size, factor) for factor in _REDUCTIONS):
        return image.size
    return size


def image_name(image: Image.Image) -> str:
    """What messages call a loaded image."""
    return image.info.get(_NAME, "the image")


def is_from_file(image: Image.Image) -> bool:
    """Whether :func:`load_image` decoded the image, rather than got it as one."""
    return _NAME in image.info


def mark_full_size(image: Image.Image, size: tuple[int, int]) -> None:
    """Say that an image is a file of another size, reduced."""
    image.info[_FULL_SIZE] = size


def _bytes_of(source: ImageSource, policy: ImagePolicy) -> tuple[bytes, str]:
    """The encoded image of any source that is not decoded, and what messages call it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        check_bytes(size, "image bytes", policy)
        return bytes(source), "image bytes"
    path = _path_of(source, policy)
    if path is not None:
        name = f"image file {short(path)}"
        return read_file(path, name, policy.max_bytes + 1), name
    text = cast(str, source)  # whatever else there is has been taken above
    scheme = scheme_of(text)
    if scheme == "data":
        return data_url_bytes(text, policy), "data URL"
    if scheme == "base64":
        return base64_bytes(text, policy), "base64 text"
    return fetch(text, policy), f"URL {shorten(text)}"


def _path_of(source: ImageSource, policy: ImagePolicy) -> str | bytes | None:
    """The path of the file that a source names; None for other sources. Raises ImageError where it may not be read."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return None
    if isinstance(source, os.PathLike):
        try:
            return find_file(os.fspath(source), policy)
        except TypeError as error:
            raise ImageError(f"image of type {type(source).__name__}: it gives no path: {one_line(error)}") from error
    if not isinstance(source, str):
        raise ImageError(f"image of type {type(source).__name__}: expected {EXPECTED}")
    scheme = scheme_of(source)
    if scheme == "":
        return find_file(source, policy)
    if scheme == "file":
        return file_of_url(source, policy)
    if scheme not in ("data", "base64", "http", "https"):
        raise ImageError(f"image {short(source)}: scheme '{scheme[:17]}://' is not supported; expected {EXPECTED}")
    return None


def _open(data: bytes, name: str, policy: ImagePolicy) -> Image.Image:
    """Encoded bytes -> image whose header is read and checked, and whose pixels are not decoded yet.

    The decoders raise many exception types on broken input, hence the wide nets here and in :func:`_decode`.
    """
    if not data:
        raise ImageError(f"{name} is empty: expected an image ({', '.join(policy.formats)})")
    check_bytes(len(data), name, policy)
    format = _format_of(data, name, policy)
    jpeg = check_structure(data, format, name)
    factor = 1 if jpeg is None else _reduction(jpeg, name, policy)
    if format == "WEBP":
        # its decoder makes room for the canvas of an animation when it reads the header
        _check_size(webp_canvas(data) or (1, 1), name, policy)
    try:
        with warnings.catch_warnings():
            # sizes are checked below, as an error; broken metadata does no harm to the pixels
            warnings.simplefilter("ignore")
            # not Image.open, whose own limit of pixels is fixed
            image = Image.OPEN[format][0](io.BytesIO(data), "")
    except Exception as error:
        raise ImageError(f"{name} has a broken header: {one_line(error)}") from error
    if jpeg is not None and factor > 1 and image.size == (jpeg.width, jpeg.height):
        image.draft(None, (max(1, jpeg.width // factor), max(1, jpeg.height // factor)))
        mark_full_size(image, (jpeg.width, jpeg.height))
    _check_size(image.size, name, policy)
    return image


def _format_of(data: bytes, name: str, policy: ImagePolicy) -> str:
    """The format of an image that may be opened, and whose decoder is there."""
    kind = kind_of(data)
    if kind is None or kind.format not in policy.formats:
        what = ""
        if kind is not None:
            advice = "this image policy does not open them; convert it to JPEG or PNG" if kind.format else kind.advice
            what = f"; it is {kind.name}: {advice}"
        raise ImageError(f"{name} is not an image of a supported format ({', '.join(policy.formats)}){what}")
    if kind.format == "HEIF":
        _register_heif(name)
    Image.preinit()
    if kind.format not in Image.OPEN:
        Image.init()
    if kind.format not in Image.OPEN:
        raise ImageError(f"{name} is {kind.name}, which this Pillow cannot open; convert it to JPEG or PNG")
    return kind.format


def _register_heif(name: str) -> None:
    if "HEIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError as error:
        message = f"{name} is a HEIC image, which needs the package pillow-heif (pip install pillow-heif); "
        raise ImageError(message + "or convert it to JPEG or PNG") from error
    pillow_heif.register_heif_opener()


def _reduction(jpeg: JpegHeader, name: str, policy: ImagePolicy) -> int:
    """By what the sides of a JPEG are divided so that its pixels are within the policy; 1 if they are, or cannot be."""
    size = jpeg.width, jpeg.height
    pixels = jpeg.width * jpeg.height
    if pixels <= policy.max_pixels:
        return 1
    if jpeg.buffered and pixels > _BUFFERED * policy.max_pixels:
        raise ImageError(
            f"{name} has {jpeg.width}x{jpeg.height} pixels in progressive form, more than the limit of "
            f"{_BUFFERED * policy.max_pixels}; save it as a baseline JPEG, make it smaller, or raise max_pixels"
        )
    for factor in _REDUCTIONS:
        width, height = _reduced(size, factor)
        if width * height <= policy.max_pixels:
            return factor
    return 1


def _reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-size[0] // factor), -(-size[1] // factor)


def _header(image: Image.Image) -> ImageHeader:
    return ImageHeader(full_size(image), orientation(image))


def _decode(data: bytes, name: str, policy: ImagePolicy) -> Image.Image:
    """Encoded bytes -> loaded image."""
    image = _open(data, name, policy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
        _check_size(image.size, name, policy)
        # a copy of an animation's first frame cannot be moved to another frame, nor decode anything later
        loaded = image.copy() if image.format in _ANIMATED else image
        return _to_eight_bits(loaded, name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name} is damaged or truncated: {one_line(error)}") from error


def _from_pil(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    _check_size(image.size, "PIL image", policy)
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"PIL image is damaged, truncated or closed: {one_line(error)}") from error
    return _to_eight_bits(image, "PIL image")


def _from_array(array: np.ndarray, policy: ImagePolicy) -> Image.Image:
    came = f"image array of shape {tuple(array.shape)} and dtype {array.dtype}"
    if array.dtype != np.uint8:
        raise ImageError(f"{came}: expected uint8 with values 0..255; scale and convert it first")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"{came}: expected [height, width], [height, width, 3] or [height, width, 4]")
    if array.size == 0:
        raise ImageError(f"{came}: expected at least one pixel")
    # before it is copied: a view may have more pixels than there is memory
    _check_size((array.shape[1], array.shape[0]), "image array", policy)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """16-bit gray to 8-bit gray by its high byte, as Pillow does with 16-bit color; its own conversion would clip."""
    if image.mode == "F":
        raise ImageError(f"{name} has floating point pixels (mode F): expected 8 or 16 bits per channel")
    if image.mode == "La":
        raise ImageError(f"{name} has premultiplied gray pixels (mode La): convert it to mode LA first")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"{name} has 32-bit pixels outside 0..65535 (mode I): expected 8 or 16 bits per channel")
    result = Image.fromarray((values >> 8).astype(np.uint8))
    result.info.update(image.info)
    # a transparent gray level is given in 16 bits too, and alpha is not kept through this conversion
    result.info.pop("transparency", None)
    return result


def _check_size(size: tuple[int, int], name: str, policy: ImagePolicy) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has a size of {width}x{height} pixels: expected at least 1x1")
    if width * height > policy.max_pixels:
        raise ImageError(
            f"{name} has {width}x{height} pixels, more than the limit of {policy.max_pixels} (max_pixels): "
            "make it smaller, or raise the limit"
        )
