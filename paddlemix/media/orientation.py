"""The EXIF orientation of an image: read without trusting what stands beside it, and applied."""

from __future__ import annotations

import re

from PIL import Image

from .structure import tiff_tags

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = (5, 6, 7, 8)
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF or XMP data says; 1 (upright) where they say nothing or are broken."""
    value = (getattr(image, "_exif", None) or {}).get(_ORIENTATION)  # read already, or set by the caller
    if value is None:
        value = _from_exif(_exif_bytes(image))
    if value is None:
        value = _from_xmp(image.info.get("XML:com.adobe.xmp") or image.info.get("xmp"))
    return value if isinstance(value, int) and value in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its orientation says; itself where there is nothing to turn."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of an image after it is turned."""
    return size[::-1] if orientation in _SWAPPING else size


def _exif_bytes(image: Image.Image) -> bytes:
    exif, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if exif is None and isinstance(text, str):
        # how ImageMagick writes EXIF into PNG: three lines, then hexadecimal digits
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return b""
    return exif if isinstance(exif, bytes) else b""


def _from_exif(exif: bytes) -> int | None:
    data = exif[6:] if exif[:6] == b"Exif\0\0" else exif
    return next((tag.value for tag in tiff_tags(data) if tag.number == _ORIENTATION), None)


def _from_xmp(xmp: object) -> int | None:
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    match = _XMP.search(xmp) if isinstance(xmp, bytes) else None
    return int(match[1]) if match else None
